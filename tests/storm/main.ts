/**
 * `npm run storm`: Slack events over three processes of the product, with kills and database outages. See storm.ts for what counts.
 */
import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { PROCESSES, runStorm, type StormOptions } from './storm.ts';

const USAGE = `Usage: npm run storm -- [options]

Starts ${PROCESSES} processes of the product over a PostgreSQL and a local world of its own and delivers Slack events to them, each one to four times,
shuffled, again until it is acknowledged. Meanwhile processes are killed (SIGKILL) and PostgreSQL is stopped and started. Afterwards
every acknowledged event must be exactly one task with exactly one run, and every run must have come to its end.
Progress goes to standard error; standard output gets one line of JSON. The same seed gives the same deliveries.

  --events <n>     distinct events, 10 to 1000000                  (default 1000)
  --kills <n>      processes killed, 0 to 100                      (default 1)
  --pg-stops <n>   times that PostgreSQL is stopped, 0 to 1000     (default 2)
  --seed <n>       what the plan follows from, 0 to 2147483647     (default: a new one, printed)
  --json           no progress on standard error
  --help

Examples:
  npm run storm -- --events 10000 --pg-stops 20 --seed 1
  npm run storm -- --events 300 --pg-stops 0 --kills 0

Exit status: 0 all held, 1 something was broken (see "breaches"), 2 wrong usage.
`;

class UsageError extends Error {}

function readOptions(args: string[]): StormOptions | 'help' {
  let values: Record<string, string | boolean | undefined>;
  try {
    ({ values } = parseArgs({
      args,
      options: {
        events: { type: 'string', default: '1000' },
        kills: { type: 'string', default: '1' },
        'pg-stops': { type: 'string', default: '2' },
        seed: { type: 'string', default: String(randomInt(2 ** 31)) },
        json: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    }));
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
  if (values.help === true) return 'help';
  return {
    events: whole('events', values.events, 10, 1_000_000),
    kills: whole('kills', values.kills, 0, 100),
    pgStops: whole('pg-stops', values['pg-stops'], 0, 1_000),
    seed: whole('seed', values.seed, 0, 2 ** 31 - 1),
    onProgress: (line) => {
      if (values.json !== true) process.stderr.write(`${line}\n`);
    },
  };
}

function whole(name: string, text: string | boolean | undefined, least: number, most: number): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < least || value > most)
    throw new UsageError(`--${name} must be a whole number from ${least} to ${most}, not ${text}`);
  return value;
}

async function main(): Promise<number> {
  const options = readOptions(process.argv.slice(2));
  if (options === 'help') {
    process.stdout.write(USAGE);
    return 0;
  }
  options.onProgress(`seed ${options.seed}`);
  const report = await runStorm(options);
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
