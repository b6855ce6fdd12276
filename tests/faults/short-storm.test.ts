/**
 * Guarantee: events delivered one to four times, in any order, to three processes of which one is killed while PostgreSQL is stopped and
 * started, become exactly one task with one run each, twins of one message too; nothing acknowledged is lost. The same as `npm run storm`,
 * in short.
 */
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

test('two hundred events over three processes are two hundred runs', async () => {
  const storm = path.resolve(import.meta.dirname, '../storm/main.ts');

  const { stdout, stderr } = await promisify(execFile)(
    process.execPath,
    [storm, '--events', '200', '--kills', '1', '--pg-stops', '1', '--seed', '7'],
    { timeout: 110_000 },
  ).catch((error: { stdout: string; stderr: string }) => error);

  const report = JSON.parse(stdout || `{"said":${JSON.stringify(stderr)}}`);
  expect(report).toMatchObject({ ok: true, breaches: [], events: 200, kills: 1, pgStops: 1 });
  expect(report.counted).toMatchObject({ rows: 208, tasks: 200, runs: 200, accepted: 200 });
  // Deliveries came again, and some met the outage.
  expect(report.counted.redelivered).toBeGreaterThan(200);
  expect(Object.keys(report.repeated).length).toBeGreaterThan(0);
}, 120_000);
