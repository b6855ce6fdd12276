/**
 * `npm run chaos`: durable runs under kills, stops and database outages, judged from outside. See supervisor.ts for what happens and
 * judge.ts for what counts.
 */
import { randomBytes } from 'node:crypto';
import { parseArgs } from 'node:util';
import { type ChaosOptions, runChaos } from './supervisor.ts';

const USAGE = `Usage: npm run chaos -- [options]

Starts worker processes over a PostgreSQL of its own, starts runs, and meanwhile kills workers (SIGKILL), stops them past their
lease (SIGSTOP) and stops the database. Afterwards every run, effect, counter and journal row is checked from outside.
Progress goes to standard error; standard output gets one line of JSON. The same seed gives the same runs and faults.

  --runs <n>      runs to start, 1 to 100000          (default 200)
  --workers <n>   worker processes, 1 to 32           (default 4)
  --seed <text>   what the plan follows from          (default: a new one, printed)
  --url <url>     use this PostgreSQL, as a user who may create databases; its sessions are cut instead of it being stopped
  --json          no progress on standard error
  --keep          keep the folder with the logs of workers and database
  --help

Examples:
  npm run chaos -- --runs 60 --workers 3 --seed 7
  npm run chaos -- --runs 2000 --json
  npm run chaos -- --url postgres://postgres@127.0.0.1:5432/postgres

Exit status: 0 all held, 1 something was broken (see "breaches"), 2 wrong usage.
`;

class UsageError extends Error {}

function readOptions(args: string[]): Omit<ChaosOptions, 'signal'> | 'help' {
  let values: Record<string, string | boolean | undefined>;
  try {
    ({ values } = parseArgs({
      args,
      options: {
        runs: { type: 'string', default: '200' },
        workers: { type: 'string', default: '4' },
        seed: { type: 'string', default: randomBytes(4).toString('hex') },
        url: { type: 'string' },
        json: { type: 'boolean', default: false },
        keep: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    }));
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
  if (values.help === true) return 'help';
  const { url } = values;
  if (typeof url === 'string' && !/^postgres(ql)?:$/.test(URL.canParse(url) ? new URL(url).protocol : ''))
    throw new UsageError('--url must be a postgres:// address');
  return {
    runs: whole('runs', values.runs, 100_000),
    workers: whole('workers', values.workers, 32),
    seed: String(values.seed),
    ...(typeof url === 'string' ? { url } : {}),
    isKept: values.keep === true,
    onProgress: (line) => {
      if (values.json !== true) process.stderr.write(`${line}\n`);
    },
  };
}

function whole(name: string, text: string | boolean | undefined, most: number): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1 || value > most)
    throw new UsageError(`--${name} must be a whole number from 1 to ${most}, not ${text}`);
  return value;
}

async function main(): Promise<number> {
  const options = readOptions(process.argv.slice(2));
  if (options === 'help') {
    process.stdout.write(USAGE);
    return 0;
  }
  options.onProgress(`seed ${options.seed}`);
  const interrupted = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const)
    process.once(name, () => interrupted.abort(new Error(`ended by ${name}`)));
  const report = await runChaos({ ...options, signal: interrupted.signal }).catch((error: unknown) => {
    throw interrupted.signal.aborted ? interrupted.signal.reason : error;
  });
  process.stdout.write(`${JSON.stringify(report)}\n`);
  return report.ok ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  const isUsage = error instanceof UsageError;
  process.stderr.write(
    `${error instanceof Error ? error.message : String(error)}\n${isUsage ? `\n${USAGE}` : ''}`,
  );
  process.exitCode = isUsage ? 2 : 1;
}
