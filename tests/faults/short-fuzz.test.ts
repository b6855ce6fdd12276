/**
 * Guarantee: whatever bears Slack's signature, however odd, is taken, ignored with a 200 or refused with a 400: nothing ends the process or
 * is thrown unheard, what is stored ends handled, and no run and no decision comes of what asks for none. The same as `npm run fuzz`, in
 * short.
 */
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

test('three thousand requests of Slack, changed at random, do no harm', async () => {
  const fuzz = path.resolve(import.meta.dirname, '../fuzz/main.ts');

  const { stdout, stderr } = await promisify(execFile)(
    process.execPath,
    [fuzz, '--runs', '3000', '--seed', '5', '--whole-way', '10'],
    { timeout: 170_000, maxBuffer: 10_000_000 },
  ).catch((error: { stdout: string; stderr: string }) => error);

  const report = JSON.parse(stdout || `{"said":${JSON.stringify(stderr)}}`);
  expect(report).toMatchObject({ ok: true, breaches: [], runs: 3_000, wholeWay: 300 });
  // The changes leave enough whole for every outcome to be met, and nothing is only refused.
  for (const outcome of ['stored', 'refused', 'ignored', 'challenge', 'mended'])
    expect(report.outcomes[outcome]).toBeGreaterThan(0);
  expect(report.handledRows).toBeGreaterThan(50);
  expect(report.tasks).toBeGreaterThan(1);
});
