/**
 * Guarantee: events delivered one to four times, in any order, to three processes of which one is killed while PostgreSQL is stopped and
 * started, become exactly one task with one run each, twins of one message too; nothing acknowledged is lost. The same as `npm run storm`,
 * in short.
 */
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

test('a hundred events over three processes are a hundred runs', async () => {
  const storm = path.resolve(import.meta.dirname, '../storm/main.ts');

  const { stdout, stderr } = await promisify(execFile)(
    process.execPath,
    [storm, '--events', '100', '--kills', '1', '--pg-stops', '1', '--seed', '7'],
    { timeout: 170_000 },
  ).catch((error: { stdout: string; stderr: string }) => error);

  const report = JSON.parse(stdout || `{"said":${JSON.stringify(stderr)}}`);
  expect(report).toMatchObject({ ok: true, breaches: [], events: 100, kills: 1, pgStops: 1 });
  expect(report.counted).toMatchObject({ rows: 104, tasks: 100, runs: 100, accepted: 100 });
  // Deliveries came again, and some met the outage.
  expect(report.counted.redelivered).toBeGreaterThan(100);
  expect(Object.keys(report.repeated).length).toBeGreaterThan(0);
});
