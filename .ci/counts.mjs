/**
 * What the test runner's own reports say: without one nothing ran, and that is a failure.
 *
 *   node .ci/counts.mjs red <folder>     the files with a red test, a line each
 *   node .ci/counts.mjs count <folder>   "N passed, M failed" over both rounds; ends with 1 unless all passed
 */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';

const [what, folder] = process.argv.slice(2);

/** Test results by file; of a file that ran twice the second round counts. */
function resultsOf(round) {
  const file = path.join(folder, `${round}.json`);
  const text = existsSync(file) ? readFileSync(file, 'utf8') : '';
  return new Map((text === '' ? [] : JSON.parse(text).testResults).map((result) => [result.name, result]));
}

const results = new Map([...resultsOf('first'), ...resultsOf('second')]);
const isRed = ({ status }) => status !== 'passed';
if (what === 'red') {
  for (const [name, result] of results)
    if (isRed(result)) process.stdout.write(`${path.relative('.', name)}\n`);
} else {
  const tests = [...results.values()].flatMap(({ assertionResults }) => assertionResults);
  const passed = tests.filter(({ status }) => status === 'passed').length;
  const redFiles = [...results.values()].filter(isRed).length;
  const failed = Math.max(tests.filter(({ status }) => status === 'failed').length, redFiles);
  process.stdout.write(`${passed} passed, ${failed} failed\n`);
  process.exitCode = passed > 0 && failed === 0 ? 0 : 1;
}
