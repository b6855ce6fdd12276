/**
 * `npm run storm`: Slack events over three processes of the product, with kills and database outages. See storm.ts for what counts.
 */
import { randomInt } from 'node:crypto';
import { runTrial, whole } from '../support/trial.ts';
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

await runTrial({
  usage: USAGE,
  flags: {
    events: { type: 'string', default: '1000' },
    kills: { type: 'string', default: '1' },
    'pg-stops': { type: 'string', default: '2' },
    seed: { type: 'string', default: String(randomInt(2 ** 31)) },
  },
  read: (values, onProgress): StormOptions => ({
    events: whole('events', values.events, 10, 1_000_000),
    kills: whole('kills', values.kills, 0, 100),
    pgStops: whole('pg-stops', values['pg-stops'], 0, 1_000),
    seed: whole('seed', values.seed, 0, 2 ** 31 - 1),
    onProgress,
  }),
  run: runStorm,
});
