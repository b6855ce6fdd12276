/**
 * The command line of the programs that try the product by hand (chaos, storm, fuzz): progress on standard error, one line of JSON on
 * standard output, exit status 0 all held, 1 something was broken, 2 wrong usage.
 */
import { type ParseArgsConfig, parseArgs } from 'node:util';

export type Values = Readonly<Record<string, string | boolean | undefined>>;

/** Said with the usage below it. */
export class UsageError extends Error {}

/** A number from the command line. Throws UsageError for anything but a whole one from `least` to `most`. */
export function whole(name: string, text: string | boolean | undefined, least: number, most: number): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < least || value > most)
    throw new UsageError(`--${name} must be a whole number from ${least} to ${most}, not ${text}`);
  return value;
}

/** Reads the arguments, runs, prints the report and sets the exit status. `--json` and `--help` are every trial's. Never rejects. */
export async function runTrial<Options extends { readonly seed: string | number }>(trial: {
  readonly usage: string;
  readonly flags: NonNullable<ParseArgsConfig['options']>;
  /** Throws UsageError. */
  readonly read: (values: Values, onProgress: (line: string) => void) => Options;
  readonly run: (options: Options) => Promise<{ readonly ok: boolean }>;
}): Promise<void> {
  try {
    const values = parse(trial.flags);
    if (values.help === true) {
      process.stdout.write(trial.usage);
      return;
    }
    const onProgress = (line: string): void => {
      if (values.json !== true) process.stderr.write(`${line}\n`);
    };
    const options = trial.read(values, onProgress);
    onProgress(`seed ${options.seed}`);
    const report = await trial.run(options);
    process.stdout.write(`${JSON.stringify(report)}\n`);
    process.exitCode = report.ok ? 0 : 1;
  } catch (error) {
    const isUsage = error instanceof UsageError;
    process.stderr.write(
      `${error instanceof Error ? error.message : String(error)}\n${isUsage ? `\n${trial.usage}` : ''}`,
    );
    process.exitCode = isUsage ? 2 : 1;
  }
}

function parse(flags: NonNullable<ParseArgsConfig['options']>): Values {
  const json = { type: 'boolean', default: false } as const;
  try {
    const { values } = parseArgs({ options: { ...flags, json, help: json } });
    return values as Values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}
