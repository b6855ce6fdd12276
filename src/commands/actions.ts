/**
 * `countersign actions`: what became of actions, and an operator's word on the ones whose outcome is unknown. Thin over `src/jobs`.
 *
 * Invariant: an operator is recorded by the name of their account on this machine, as `cli/<name>`, with the reason they gave.
 */
import { Command, Option } from 'commander';
import { oneLine, visible } from '../bot/text.ts';
import { CountersignError } from '../errors.ts';
import { actionIdsLike, type ListedAction, listActions } from '../jobs/actions.ts';
import { policyInForce } from '../jobs/definitions.ts';
import type { Database } from '../jobs/engine/db.ts';
import { MAX_REASON_LENGTH, settleUnknown } from '../jobs/settling.ts';
import { firstPolicy, parsePolicyPeople } from '../policies/first-policy.ts';
import { ACTION_STATUSES, type ActionStatus, type WorkspaceId } from '../types.ts';
import type { NoteReason } from '../views.ts';
import { operator, withDatabase } from './operator.ts';
import { print, printJson } from './output.ts';

/** A screen or two; the rest is in the database. */
const LISTED = 200;
/** A title beyond this wraps on most screens; `--json` has it whole. */
const TITLE_WIDTH = 60;
/** As long as a shortened id must be: fewer digits name the hour rather than the action. */
const MIN_PREFIX = 8;

/** The `actions` command with its verbs. Register with `program.addCommand(actionsCommand())`. Throws CountersignErrors with one clear line. */
export function actionsCommand(): Command {
  const actions = new Command('actions')
    .description('Look at actions, and settle those whose outcome is unknown')
    // `addCommand` hands nothing of the program down; the verbs below inherit this.
    .exitOverride()
    .showHelpAfterError('(countersign --help lists the commands)');
  actions
    .command('list')
    .description(`List the newest actions, at most ${LISTED}`)
    .addOption(new Option('--status <status>', 'only those of one status').choices(ACTION_STATUSES))
    .option('--json', 'print one JSON array')
    .addHelpText('after', '\nExample:\n  $ countersign actions list --status unknown')
    .action(list);
  actions
    .command('settle')
    .description(
      'Say whether an action of unknown outcome happened; recorded with who and why, nothing is sent',
    )
    .argument('<action-id>', `the id, or its first ${MIN_PREFIX} or more characters where they are unique`)
    .addOption(new Option('--happened', 'it happened').conflicts('didNotHappen'))
    .addOption(new Option('--did-not-happen', 'it did not happen'))
    .requiredOption('--reason <words>', 'what you saw at the target, for the ledger')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nExample:\n  $ countersign actions settle 0199f1aa-3c41 --happened --reason "pull request 7 is merged as 9a1b2c3"',
    )
    .action(settle);
  return actions;
}

async function list(options: { status?: ActionStatus; json?: boolean }): Promise<void> {
  await withDatabase('actions', async (database, workspaceId) => {
    const status = options.status ?? null;
    const found = await listActions(database, workspaceId, { status, limit: LISTED });
    if (options.json) printJson(found);
    else print(table(found, status));
  });
}

function table(found: readonly ListedAction[], status: ActionStatus | null): string {
  if (found.length === 0) return status === null ? 'No actions.' : `No actions are ${status}.`;
  const lines = [['ACTION', 'STATUS', 'SINCE', 'KIND', 'TITLE']];
  for (const action of found)
    lines.push([
      action.actionId,
      action.status,
      `${action.updatedAt.slice(0, 16).replace('T', ' ')} UTC`,
      shown(action.kind, TITLE_WIDTH),
      shown(action.title, TITLE_WIDTH),
    ]);
  const widths = (lines[0] ?? []).map((_, column) =>
    Math.max(...lines.map((line) => line[column]?.length ?? 0)),
  );
  const rows = lines.map((line) =>
    line
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
  if (found.length === LISTED) rows.push(`Showing the newest ${LISTED}.`);
  return rows.join('\n');
}

/** Outside text on one line of a terminal, where it can move no cursor. */
function shown(text: string, width: number): string {
  const line = visible(oneLine(text));
  return line.length <= width ? line : `${line.slice(0, width - 1).toWellFormed()}…`;
}

interface SettleOptions {
  readonly happened?: boolean;
  readonly didNotHappen?: boolean;
  readonly reason: string;
  readonly json?: boolean;
}

async function settle(idOrPrefix: string, options: SettleOptions): Promise<void> {
  const { happened = false, didNotHappen = false, reason } = options;
  if (happened === didNotHappen)
    throw new CountersignError('CONFIG_INVALID', 'settle needs either --happened or --did-not-happen');
  if (reason.trim() === '')
    throw new CountersignError('CONFIG_INVALID', '--reason is blank; say what you saw');
  if (reason.length > MAX_REASON_LENGTH)
    throw new CountersignError(
      'CONFIG_INVALID',
      `--reason is ${reason.length} characters long; at most ${MAX_REASON_LENGTH} fit on the card`,
    );
  await withDatabase('actions', async (database, workspaceId) => {
    const actionId = await resolve(database, workspaceId, idOrPrefix);
    const policyOf = policyInForce((content) => firstPolicy(parsePolicyPeople(content)));
    const by = { via: 'cli', user: operator() } as const;
    const answer = await database.transaction((tx) =>
      settleUnknown(tx, { policyOf }, { workspaceId, actionId, by, happened, reason }),
    );
    if (!answer.settled) throw new CountersignError('ACTION_NOT_PERMITTED', refusal(actionId, answer.note));
    const word = happened ? 'happened' : 'did not happen';
    if (options.json)
      printJson({ actionId, status: happened ? 'done' : 'failed', settlement: answer.settlement });
    else print(`Action ${actionId} is recorded: it ${word}, on the word of cli/${by.user}.`);
  });
}

async function resolve(database: Database, workspaceId: WorkspaceId, idOrPrefix: string): Promise<string> {
  if (!/^[0-9a-f-]+$/i.test(idOrPrefix) || idOrPrefix.length < MIN_PREFIX)
    throw new CountersignError(
      'CONFIG_INVALID',
      `An action id is given whole or by its first ${MIN_PREFIX} or more characters; "actions list" shows them`,
    );
  const found = await actionIdsLike(database, workspaceId, idOrPrefix, 2);
  const [only, another] = found;
  if (only === undefined)
    throw new CountersignError('ACTION_NOT_PERMITTED', `There is no action ${idOrPrefix} in this workspace`);
  if (another !== undefined)
    throw new CountersignError(
      'ACTION_NOT_PERMITTED',
      `More than one action begins with ${idOrPrefix}; give more of it`,
    );
  return only;
}

function refusal(actionId: string, note: NoteReason): string {
  switch (note.kind) {
    case 'already_settled': {
      const { by, happened, settledAt } = note.settlement;
      const who = by.via === 'cli' ? `cli/${by.user}` : `${by.person.teamId}/${by.person.userId}`;
      return `Action ${actionId} was settled by ${who} at ${settledAt}: it ${happened ? 'happened' : 'did not happen'}; nothing was changed`;
    }
    case 'nothing_to_settle':
      return `The outcome of action ${actionId} is not unknown; nothing was changed`;
    default:
      return `Action ${actionId} cannot be settled (${note.kind}); nothing was changed`;
  }
}
