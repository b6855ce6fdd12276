/**
 * Whether Slack still lets us in. Slack says so itself when somebody uninstalls the app or revokes its token; from then on nothing can be
 * sent, and whatever is owed rests until the token is good again. Owns `workspaces.slack_lost_at`.
 *
 * Invariants. Only Slack's refusal of our token sets it, an event alone does not: it may come late, after the app was installed again.
 * Each change is one ledger entry. Requests stay pending meanwhile: losing Slack decides nothing.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { hasCode, toStoredError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Queryable, Tx, WorkspaceId } from '../types.ts';
import { ring } from './engine/bell.ts';
import type { Database } from './engine/db.ts';
import { appendEntry } from './ledger.ts';
import type { Loop } from './loop.ts';

/** How soon a token that is good again is noticed. */
const WATCH_EVERY_MS = 30_000;

/** What Slack told us: its event's name. */
export type SlackLostBy = 'app_uninstalled' | 'tokens_revoked';

/** Remembers that Slack refuses our token. In the caller's transaction; a second time changes nothing. */
export async function slackLost(tx: Tx, workspaceId: WorkspaceId, by: SlackLostBy): Promise<void> {
  const { rowCount } = await tx.query({
    text: 'update workspaces set slack_lost_at = db_now() where workspace_id = $1 and slack_lost_at is null',
    values: [workspaceId],
  });
  if (rowCount === 0) return;
  await appendEntry(tx, {
    workspaceId,
    subjectKind: 'workspace',
    subjectId: workspaceId,
    kind: 'workspace.slack_lost',
    facts: { by },
  });
}

/** Forgets it, after Slack took our token: deliveries go on. In the caller's transaction; true when there was something to forget. */
export async function slackRegained(tx: Tx, workspaceId: WorkspaceId): Promise<boolean> {
  const { rowCount } = await tx.query({
    text: 'update workspaces set slack_lost_at = null where workspace_id = $1 and slack_lost_at is not null',
    values: [workspaceId],
  });
  if (rowCount === 0) return false;
  await appendEntry(tx, {
    workspaceId,
    subjectKind: 'workspace',
    subjectId: workspaceId,
    kind: 'workspace.slack_regained',
    facts: {},
  });
  await ring(tx, 'delivery');
  return true;
}

/** Since when Slack refuses our token; null while it is good. Whoever sends asks this first. */
export async function slackLostAt(db: Queryable, workspaceId: WorkspaceId): Promise<Date | null> {
  const { rows } = await db.query<{ slack_lost_at: Date | null }>({
    name: 'slack_lost_at',
    text: 'select slack_lost_at from workspaces where workspace_id = $1',
    values: [workspaceId],
  });
  return rows[0]?.slack_lost_at ?? null;
}

export interface WatchOptions {
  readonly database: Database;
  readonly workspaceId: WorkspaceId;
  /** Asks Slack; rejects with SLACK_AUTH_FAILED while it refuses our token. */
  readonly authTest: () => Promise<unknown>;
  readonly log: Logger;
  /** Default `30_000`. */
  readonly everyMs?: number;
}

/** While Slack is lost, asks it now and then whether it still is. Asks nothing otherwise. Any number of processes may. */
export function startInstallationWatch(options: WatchOptions): Loop {
  const { database, workspaceId, authTest, log, everyMs = WATCH_EVERY_MS } = options;
  const stopping = new AbortController();
  const { signal } = stopping;
  const look = async (): Promise<void> => {
    if ((await slackLostAt(database, workspaceId)) === null) return;
    await authTest();
    if (await database.transaction((tx) => slackRegained(tx, workspaceId)))
      log.info('Slack takes our token again, deliveries go on');
  };
  const watch = async (): Promise<void> => {
    while (!signal.aborted) {
      await sleep(everyMs, undefined, { signal, ref: false }).catch(() => undefined);
      if (signal.aborted) return;
      await look().catch((error: unknown) => {
        const isRefused = hasCode(error, 'SLACK_AUTH_FAILED');
        log.warn(
          { error: toStoredError(error) },
          isRefused ? 'Slack still refuses our token' : 'Slack cannot be asked',
        );
      });
    }
  };
  const watching = watch();
  return {
    async stop() {
      stopping.abort();
      await watching;
    },
  };
}
