/**
 * `npm run fuzz`: real-shaped requests of Slack's, changed at random, against the door and the running product. See fuzz.ts for what counts.
 */
import { randomInt } from 'node:crypto';
import { runTrial, whole } from '../support/trial.ts';
import { type FuzzOptions, runFuzz } from './fuzz.ts';

const USAGE = `Usage: npm run fuzz -- [options]

Makes requests of every kind that Slack sends, changes them (fields dropped, of other types, deep, huge, not storable; bytes cut, encoded
otherwise, names twice; forged references), signs them and lets the product take them. All go through signature check and parser; one
in so many goes the whole way, over HTTP into a running product with a PostgreSQL and a local world of its own.
Progress goes to standard error; standard output gets one line of JSON. The same seed makes the same requests.

  --runs <n>           requests, 1 to 100000000                  (default 100000)
  --seed <n>           what they follow from, 0 to 2147483647    (default: a new one, printed)
  --whole-way <n>      one in so many goes the whole way         (default 20)
  --json               no progress on standard error
  --help

Examples:
  npm run fuzz -- --runs 1000000 --seed 1
  npm run fuzz -- --runs 20000 --whole-way 1

Exit status: 0 all held, 1 something was broken (see "breaches"), 2 wrong usage.
`;

await runTrial({
  usage: USAGE,
  flags: {
    runs: { type: 'string', default: '100000' },
    seed: { type: 'string', default: String(randomInt(2 ** 31)) },
    'whole-way': { type: 'string', default: '20' },
  },
  read: (values, onProgress): FuzzOptions => ({
    runs: whole('runs', values.runs, 1, 100_000_000),
    seed: whole('seed', values.seed, 0, 2 ** 31 - 1),
    wholeWayOneIn: whole('whole-way', values['whole-way'], 1, 1_000_000),
    onProgress,
  }),
  run: runFuzz,
});
