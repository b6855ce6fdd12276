/**
 * Guarantee: of 300 signed events a second, sent while fifty runs work, each one that was acknowledged becomes a finished run of its own.
 * The same as `npm run bench -- edge`, in short; how fast they are acknowledged is that command's to judge, on a machine that does nothing
 * else.
 */
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

interface Figure {
  readonly name: string;
  readonly value: number;
}

test('two seconds of events at full pace are as many finished runs', async () => {
  const bench = path.resolve(import.meta.dirname, '../../bench/main.ts');

  // It ends with 1 when any target was missed, also one of speed.
  const { stdout, stderr } = await promisify(execFile)(
    process.execPath,
    [bench, 'edge', '--seconds', '2', '--json'],
    { timeout: 170_000 },
  ).catch((error: { stdout: string; stderr: string }) => error);

  const lines = stdout.split('\n').filter((line) => line !== '');
  const figures = new Map(
    lines.map((line) => JSON.parse(line) as Figure).map((one) => [one.name, one.value]),
  );
  expect(Object.fromEntries(figures), stderr).toMatchObject({ lost: 0, 'not-distinct': 0 });
  // A machine that is short of everything may refuse some; most are taken, and the fifty go on.
  expect(figures.get('refused')).toBeLessThan(300);
  expect(figures.get('steps-meanwhile')).toBeGreaterThan(50);
});
