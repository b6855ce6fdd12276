/**
 * Guarantee: with workers killed, workers stopped past their lease, and the database going down and coming back under them, every run
 * ends as it should, every effect happens once, and the journal has one writer at a time. The same as `npm run chaos`, in short.
 */
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

/** About 25 s on an idle machine, its own database's first start included; other files may run beside it. */
const BOUND_MS = 60_000;

test('forty runs outlive kills, stops and database outages', async () => {
  const chaos = path.resolve(import.meta.dirname, '../chaos/main.ts');

  const { stdout, stderr } = await promisify(execFile)(
    process.execPath,
    [chaos, '--runs', '40', '--workers', '3', '--seed', 'short'],
    { timeout: 170_000 },
  ).catch((error: { stdout: string; stderr: string }) => error);

  const report = JSON.parse(stdout || `{"said":${JSON.stringify(stderr)}}`);
  expect(report).toMatchObject({ ok: true, breaches: [], runs: 40, workers: 3 });
  expect(report.kills).toBeGreaterThanOrEqual(1);
  expect(report.stops).toBeGreaterThanOrEqual(1);
  expect(report.pgStops).toBeGreaterThanOrEqual(1);
  // Runs were begun by the worker that started them, and failed ones were retried.
  expect(report.answered.start).toBeGreaterThanOrEqual(1);
  expect(report.begunByStarter).toBeGreaterThanOrEqual(1);
  expect(report.mended).toBeGreaterThanOrEqual(1);
  expect(report.seconds * 1_000).toBeLessThan(BOUND_MS);
});
