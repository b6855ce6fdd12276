/**
 * `npm run chaos`: durable runs under kills, stops and database outages, judged from outside. See supervisor.ts for what happens and
 * judge.ts for what counts.
 */
import { randomBytes } from 'node:crypto';
import { runTrial, UsageError, type Values, whole } from '../support/trial.ts';
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

await runTrial({
  usage: USAGE,
  flags: {
    runs: { type: 'string', default: '200' },
    workers: { type: 'string', default: '4' },
    seed: { type: 'string', default: randomBytes(4).toString('hex') },
    url: { type: 'string' },
    keep: { type: 'boolean', default: false },
  },
  read: readOptions,
  async run(options) {
    const interrupted = new AbortController();
    for (const name of ['SIGINT', 'SIGTERM'] as const)
      process.once(name, () => interrupted.abort(new Error(`ended by ${name}`)));
    return runChaos({ ...options, signal: interrupted.signal }).catch((error: unknown) => {
      throw interrupted.signal.aborted ? interrupted.signal.reason : error;
    });
  },
});

function readOptions(values: Values, onProgress: (line: string) => void): Omit<ChaosOptions, 'signal'> {
  const { url } = values;
  if (typeof url === 'string' && !/^postgres(ql)?:$/.test(URL.canParse(url) ? new URL(url).protocol : ''))
    throw new UsageError('--url must be a postgres:// address');
  return {
    runs: whole('runs', values.runs, 1, 100_000),
    workers: whole('workers', values.workers, 1, 32),
    seed: String(values.seed),
    ...(typeof url === 'string' ? { url } : {}),
    isKept: values.keep === true,
    onProgress,
  };
}
