/**
 * The verbs of the command line. Loaded after the Node.js version was checked; the product itself, with its SDKs, only by the two verbs
 * that run it, so that the others answer at once.
 */
import { Command, CommanderError } from 'commander';
import { actionsCommand } from './commands/actions.ts';
import { databaseUrlFor, operator } from './commands/operator.ts';
import { complain, print, printJson } from './commands/output.ts';
import { runsCommand } from './commands/runs.ts';
import { describeConfig, readPolicyFile, readVariables, serveConfig } from './config.ts';
import { CountersignError, hasCode } from './errors.ts';
import { activatePolicy, onlyWorkspace } from './jobs/definitions.ts';
import { connectDatabase, probeDatabase } from './jobs/engine/db.ts';
import { migrate } from './jobs/engine/migrate.ts';
import { verifyLedger } from './jobs/ledger-verify.ts';
import { createLogger } from './log.ts';
import { firstPolicy, parsePolicyPeople } from './policies/first-policy.ts';

/** FAULTS: finish or hand over within 25 s; then the process goes whatever is left. */
const STOP_MS = 25_000;

export async function run(argv: readonly string[]): Promise<void> {
  const program = new Command('countersign')
    .description('Background agents propose, people countersign in Slack, durable jobs execute.')
    .exitOverride()
    .showHelpAfterError('(countersign --help lists the commands)')
    .addHelpText(
      'after',
      `
Examples:
  $ npm start                                    everything local, no account needed
  $ countersign serve                            everything configured; fills nothing by itself
  $ countersign migrate                          brings DATABASE_ADMIN_URL's database to this release
  $ countersign runs list --status waiting       what waits, for what, until when
  $ countersign runs cancel 01a1fc6e --reason …  with everything it started
  $ countersign ledger verify --json             recomputes every hash, chain and seal`,
    );

  program
    .command('dev')
    .description('Run with local parts for whatever is not configured (npm start)')
    .action(dev);
  program
    .command('serve')
    .description('Run with a full configuration; a missing variable is an error that names it')
    .action(serve);
  program
    .command('migrate')
    .description('Apply due migrations with DATABASE_ADMIN_URL, then end')
    .action(applyMigrations);
  program
    .command('policy')
    .description('Look at or change the policy')
    .command('apply')
    .description(
      'Activate the policy file named by COUNTERSIGN_POLICY; recorded in the ledger with who and why',
    )
    .requiredOption('--reason <words>', 'why, for the ledger')
    .addHelpText(
      'after',
      '\nExample:\n  $ COUNTERSIGN_POLICY=policy.json countersign policy apply --reason "second reviewer joined"',
    )
    .action(policyApply);
  program.addCommand(runsCommand());
  program.addCommand(actionsCommand());
  program
    .command('ledger')
    .description('Look at the ledger')
    .command('verify')
    .description('Recompute every hash, chain and seal; status 1 names the first row that does not fit')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  $ DATABASE_URL=postgres://… countersign ledger verify --json')
    .action(ledgerVerify);

  try {
    await program.parseAsync(argv);
  } catch (error) {
    // Commander has printed its own line.
    if (error instanceof CommanderError) process.exit(error.exitCode);
    complain(words(error));
    process.exit(1);
  }
}

async function dev(): Promise<void> {
  const variables = readVariables();
  const log = createLogger({ level: variables.COUNTERSIGN_LOG_LEVEL });
  const [{ fillConfig }, { startProduct }] = await Promise.all([
    import('./local/fill.ts'),
    import('./main.ts'),
  ]);
  const filled = await fillConfig(variables);
  // A failed start leaves the local parts running: they hold state, and the next start adopts them.
  const product = await startProduct(filled.config, log).catch((error: unknown) => {
    if (!filled.withOthers || !hasCode(error, 'CONFIG_INVALID')) throw error;
    throw new CountersignError(
      'CONFIG_INVALID',
      `Countersign runs in this folder already${filled.pageUrl === null ? '' : `: open ${filled.pageUrl}`}. A second one beside it could not start: ${error.message}`,
    );
  });
  log.info({ port: product.address.port }, 'ready');
  if (filled.withOthers)
    log.warn(
      'another Countersign runs in this folder: they share its local parts, and the local Slack now speaks to this one',
    );
  if (filled.pageUrl !== null)
    print(
      `\n  Countersign is ready (process ${process.pid}). Open the local workspace:\n\n    ${filled.pageUrl}\n\n  Try: @Countersign merge pull request 1 in acme/shop\n  Beside it, in this folder: npx countersign runs list\n  Stop with Ctrl-C.\n`,
    );
  stopOnSignal(async () => {
    await product.stop();
    await filled.stop();
  });
}

async function serve(): Promise<void> {
  const variables = readVariables(undefined, { for: 'serve' });
  const config = serveConfig(variables);
  const log = createLogger({ level: config.logLevel });
  log.info(describeConfig(variables), 'configuration');
  const { startProduct } = await import('./main.ts');
  const product = await startProduct(config, log);
  log.info({ port: product.address.port }, 'ready');
  stopOnSignal(() => product.stop());
}

async function applyMigrations(): Promise<void> {
  const { DATABASE_ADMIN_URL, DATABASE_URL } = readVariables();
  if (DATABASE_ADMIN_URL === undefined || DATABASE_URL === undefined)
    throw new CountersignError(
      'CONFIG_INVALID',
      'migrate needs DATABASE_ADMIN_URL and DATABASE_URL (whose user the tables are granted to)',
    );
  await probeDatabase(DATABASE_ADMIN_URL);
  const applied = await migrate({
    adminUrl: DATABASE_ADMIN_URL,
    appRole: decodeURIComponent(new URL(DATABASE_URL).username),
  });
  print(applied.length === 0 ? 'Nothing to do.' : `Applied ${applied.join(', ')}`);
}

async function policyApply(options: { reason: string }): Promise<void> {
  const { DATABASE_URL, COUNTERSIGN_POLICY } = readVariables();
  if (DATABASE_URL === undefined || COUNTERSIGN_POLICY === undefined)
    throw new CountersignError('CONFIG_INVALID', 'policy apply needs DATABASE_URL and COUNTERSIGN_POLICY');
  const content = readPolicyFile(COUNTERSIGN_POLICY);
  const { version } = firstPolicy(parsePolicyPeople(content));
  await probeDatabase(DATABASE_URL);
  const database = connectDatabase({
    url: DATABASE_URL,
    log: createLogger({ level: 'silent' }),
    maxConnections: 1,
  });
  try {
    const workspaceId = await onlyWorkspace(database);
    if (workspaceId === null)
      throw new CountersignError(
        'CONFIG_INVALID',
        'This database has no workspace yet; start the product once, it applies the first policy',
      );
    const by = `cli/${operator()}`;
    const changed = await database.transaction((tx) =>
      activatePolicy(tx, workspaceId, { version, content }, by, options.reason),
    );
    print(changed ? `Policy ${version} is active.` : `Policy ${version} was active already.`);
  } finally {
    await database.close();
  }
}

async function ledgerVerify(options: { json?: boolean }): Promise<void> {
  const url = await databaseUrlFor('ledger verify');
  await probeDatabase(url);
  const database = connectDatabase({
    url,
    log: createLogger({ level: 'silent' }),
    maxConnections: 1,
  });
  try {
    const check = await verifyLedger(database);
    if (options.json) printJson(check);
    else
      print(
        check.firstBad === null
          ? `The ledger verifies: ${check.entries} entries of ${check.subjects} subjects in ${check.seals} seals, ${check.unsealed} not yet sealed.\nHead: ${check.head ?? 'none'}`
          : `The ledger does NOT verify: ${check.firstBad}`,
      );
    if (check.firstBad !== null) process.exitCode = 1;
  } finally {
    await database.close();
  }
}

/** The first signal stops in order, a second one at once. */
function stopOnSignal(stop: () => Promise<void>): void {
  let stopping = false;
  const onSignal = (): void => {
    if (stopping) process.exit(1);
    stopping = true;
    setTimeout(() => process.exit(1), STOP_MS).unref();
    stop().then(
      () => process.exit(0),
      (error: unknown) => {
        complain(words(error));
        process.exit(1);
      },
    );
  };
  process.on('SIGTERM', onSignal);
  process.on('SIGINT', onSignal);
}

function words(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error instanceof CountersignError ? error.message : `${error.name}: ${error.message}`;
}
