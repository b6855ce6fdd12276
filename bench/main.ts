/**
 * `npm run bench -- <subject>`: measures the product against targets, on a database of its own.
 *
 * Exit codes: 0 every target met · 1 a target missed, or a wrong command line · 2 the setup would not measure what it claims to.
 */
import { parseArgs } from 'node:util';
import { benchEdge } from './edge.ts';
import { benchEngine } from './engine.ts';
import { benchStory } from './story.ts';
import { SetupRefused } from './world.ts';

export interface BenchOptions {
  /** JSON lines only. */
  readonly quiet: boolean;
  /** Figures whose name starts with this; undefined for all. */
  readonly only: string | undefined;
  /** Connects as somebody who may create databases; undefined for an embedded Postgres. */
  readonly url: string | undefined;
  /** How long `edge` sends; undefined for its default. */
  readonly seconds: number | undefined;
}

/** Each resolves to whether every target was met. */
const SUBJECTS: Record<string, (options: BenchOptions) => Promise<boolean>> = {
  edge: benchEdge,
  engine: benchEngine,
  story: benchStory,
};

const HELP = `Usage: npm run bench -- <subject> [--json] [--only <figure>] [--url <postgres url>] [--seconds <n>]

Subjects: ${Object.keys(SUBJECTS).join(', ')}

  --json   one JSON line per figure and nothing else (the lines are printed either way; the table goes to standard error)
  --only   only the figures whose name starts with this
  --url    a PostgreSQL whose user may create databases; without it an embedded one is started, and removed at the end
  --seconds  edge: send events for so long (default 300)

Examples:
  npm run bench -- engine
  npm run bench -- engine --only throughput
  npm run bench -- story
  npm run bench -- edge --seconds 60
  npm run bench -- engine --json --url postgres://postgres@127.0.0.1/postgres > engine.jsonl
`;

async function main(args: readonly string[]): Promise<number> {
  let parsed: ReturnType<typeof parse>;
  try {
    parsed = parse(args);
  } catch (error) {
    return refuse(error instanceof Error ? error.message : String(error));
  }
  const { values, positionals } = parsed;
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const [subject, ...rest] = positionals;
  const bench = subject === undefined || !Object.hasOwn(SUBJECTS, subject) ? undefined : SUBJECTS[subject];
  if (!bench || rest.length > 0)
    return refuse(
      `${bench ? `unexpected ${rest.join(' ')}` : `unknown subject ${subject ?? '(none)'}`}; one of: ${Object.keys(SUBJECTS).join(', ')} (--help shows more)`,
    );
  const seconds = values.seconds === undefined ? undefined : Number(values.seconds);
  if (seconds !== undefined && !(Number.isInteger(seconds) && seconds >= 1 && seconds <= 3_600))
    return refuse('--seconds must be a whole number from 1 to 3600');
  try {
    return (await bench({ quiet: values.json, only: values.only, url: values.url, seconds })) ? 0 : 1;
  } catch (error) {
    if (!(error instanceof SetupRefused)) throw error;
    process.stderr.write(`bench: ${error.message}\n`);
    return error.exitCode;
  }
}

function parse(args: readonly string[]) {
  return parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      json: { type: 'boolean', default: false },
      only: { type: 'string' },
      url: { type: 'string' },
      seconds: { type: 'string' },
      help: { type: 'boolean', default: false, short: 'h' },
    },
  });
}

function refuse(why: string): number {
  process.stderr.write(`bench: ${why}\n`);
  return 1;
}

process.exitCode = await main(process.argv.slice(2));
