/**
 * What a digest tells of, from the ledger's entries alone: which tasks ended and how, who changed their mind, what waits for whom. Pure.
 *
 * Invariant: an entry that an earlier digest covered is told again only where it still waits.
 */
import { z } from 'zod';
import type { Person } from '../types.ts';
import type {
  DigestChanged,
  DigestDone,
  DigestFailed,
  DigestNotDone,
  DigestTask,
  DigestWaiting,
} from '../views.ts';

/** The facts this file reads, of whatever entry; each is there in the kinds that have it. */
export const entryBody = z.object({
  facts: z.object({
    requester: z.string().optional(),
    channel: z.string().optional(),
    code: z.string().optional(),
    actionId: z.string().nullish(),
    requestId: z.string().nullish(),
    kind: z.string().optional(),
    happened: z.boolean().optional(),
    quorum: z.number().optional(),
    reviewers: z.array(z.string()).optional(),
    deadlineAt: z.string().optional(),
    decision: z.string().optional(),
    person: z.string().optional(),
    /** What the run had spent in all when its task ended. */
    costUsd: z.string().optional(),
  }),
});
type Facts = z.infer<typeof entryBody>['facts'];

export interface Entry {
  readonly id: string;
  readonly seq: number;
  readonly kind: string;
  readonly at: Date;
  readonly facts: Facts;
  /** Among what this digest covers, not only before it. */
  readonly fresh: boolean;
}
/** The entries of one run, oldest first. */
export type History = readonly Entry[];

/** How a task ends. */
export const ENDS = ['task.finished', 'task.failed', 'task.cancelled'];
/** How a request ends. */
export const CLOSINGS = [
  'approval.approved',
  'approval.rejected',
  'approval.changes_requested',
  'approval.expired',
  'approval.superseded',
  'approval.withdrawn',
  'approval.revoked',
];

/** What opens a wait for people. The index of migration 0008 covers exactly these. */
const OPENINGS = ['approval.requested', 'action.unknown', 'run.parked'];
/** What ends the standstill of a parked run. */
export const UNPARKED = ['run.resumed', 'run.retried', 'run.cancelled', ...ENDS];

/** An item whose words are not read yet, and where they stand. */
export type Raw<Item extends DigestTask> = Omit<Item, 'objective' | 'why' | 'reason'> & {
  readonly wordsOf: { readonly [field in 'objective' | 'why' | 'reason']?: string | undefined };
};
export interface Shown {
  readonly done: readonly Raw<DigestDone>[];
  readonly notDone: readonly Raw<DigestNotDone>[];
  readonly failed: readonly Raw<DigestFailed>[];
  readonly waiting: readonly Raw<DigestWaiting>[];
  readonly changed: readonly Raw<DigestChanged>[];
}
export interface Told {
  readonly done: Raw<DigestDone>[];
  readonly notDone: Raw<DigestNotDone>[];
  readonly failed: Raw<DigestFailed>[];
  readonly waiting: Raw<DigestWaiting>[];
  readonly changed: Raw<DigestChanged>[];
  readonly decisionMs: number[];
  spentUsd: number | null;
}

export function tell(histories: ReadonlyMap<string, History>): Told {
  const told: Told = {
    done: [],
    notDone: [],
    failed: [],
    waiting: [],
    changed: [],
    decisionMs: [],
    spentUsd: null,
  };
  for (const [runId, history] of histories) {
    tellEnd(told, runId, history);
    tellDecisions(told, runId, history);
    tellWaits(told, runId, history);
  }
  told.waiting.sort((one, other) => one.since.localeCompare(other.since));
  return told;
}

function taskOf(runId: string, history: History) {
  const accepted = history.find((entry) => entry.kind === 'task.accepted');
  return {
    runId,
    requester: personOf(accepted?.facts.requester),
    channelId: accepted?.facts.channel ?? null,
    objectiveOf: accepted?.id,
  };
}

/** How the task ended, if that is news and still so: a retried one is under way again. */
function tellEnd(told: Told, runId: string, history: History): void {
  const end = history.findLast((entry) => ENDS.includes(entry.kind));
  if (end === undefined || !end.fresh) return;
  const spent = spentBetween(history, end);
  if (spent !== null) told.spentUsd = (told.spentUsd ?? 0) + spent;
  if (history.some((entry) => entry.seq > end.seq && entry.kind === 'run.retried')) return;
  const { objectiveOf, ...task } = taskOf(runId, history);
  const words = { objective: objectiveOf };
  if (end.kind === 'task.failed') {
    told.failed.push({ ...task, code: end.facts.code ?? '', wordsOf: { ...words, why: end.id } });
    return;
  }
  if (end.kind === 'task.cancelled') {
    told.notDone.push({ ...task, because: 'cancelled', wordsOf: words });
    return;
  }
  const actions = doneActions(history);
  const because = actions.length > 0 ? null : lastRefusal(history);
  if (because === null) told.done.push({ ...task, actions, wordsOf: words });
  else told.notDone.push({ ...task, because, wordsOf: words });
}

/** Null where no entry says what was spent. What an earlier digest told of is taken off. */
function spentBetween(history: History, end: Entry): number | null {
  if (end.facts.costUsd === undefined) return null;
  const before = history.findLast((entry) => !entry.fresh && entry.facts.costUsd !== undefined);
  return Number(end.facts.costUsd) - Number(before?.facts.costUsd ?? 0);
}

function doneActions(history: History): DigestDone['actions'] {
  return history.flatMap((entry) => {
    const settled = entry.kind === 'action.settled' && entry.facts.happened === true;
    if (entry.kind !== 'action.done' && !settled) return [];
    return [
      { kind: entry.facts.kind ?? '', approvedBy: approversOf(history, entry.facts.actionId), settled },
    ];
  });
}

function approversOf(history: History, actionId: string | null | undefined): Person[] {
  const requests = history
    .filter((entry) => entry.kind === 'approval.requested' && entry.facts.actionId === actionId)
    .map((entry) => entry.facts.requestId);
  return history
    .filter((entry) => entry.kind === 'approval.decided' && entry.facts.decision === 'approve')
    .filter((entry) => requests.includes(entry.facts.requestId))
    .flatMap((entry) => personOf(entry.facts.person) ?? []);
}

const REFUSALS: Readonly<Record<string, DigestNotDone['because']>> = {
  'approval.rejected': 'rejected',
  'approval.changes_requested': 'changes_requested',
  'approval.expired': 'expired',
  'approval.withdrawn': 'withdrawn',
  'approval.superseded': 'superseded',
  'action.denied': 'denied',
  'action.failed': 'failed',
  'action.unknown': 'unknown',
  'action.settled': 'failed',
};

/** Why nothing was done, by the last word on any action; null when nothing was proposed. */
function lastRefusal(history: History): DigestNotDone['because'] | null {
  const last = history.findLast((entry) => entry.kind in REFUSALS);
  return last === undefined ? null : (REFUSALS[last.kind] ?? null);
}

const CHANGED: Readonly<Record<string, DigestChanged['what']>> = {
  'approval.rejected': 'rejected',
  'approval.changes_requested': 'changes_requested',
  'approval.revoked': 'revoked',
};
const DECISION_OF = { rejected: 'reject', changes_requested: 'request_changes', revoked: 'revoke' } as const;

function tellDecisions(told: Told, runId: string, history: History): void {
  for (const closing of history) {
    if (!closing.fresh || !CLOSINGS.includes(closing.kind)) continue;
    const { requestId } = closing.facts;
    const asked = history.find(
      (entry) => entry.kind === 'approval.requested' && entry.facts.requestId === requestId,
    );
    const what = CHANGED[closing.kind];
    // From asking to a person's word; time and withdrawals decide nothing.
    if (asked && (closing.kind === 'approval.approved' || (what !== undefined && what !== 'revoked')))
      told.decisionMs.push(closing.at.getTime() - asked.at.getTime());
    if (what === undefined) continue;
    const decided = history.findLast(
      (entry) =>
        entry.kind === 'approval.decided' &&
        entry.facts.requestId === requestId &&
        entry.facts.decision === DECISION_OF[what],
    );
    const { objectiveOf, ...task } = taskOf(runId, history);
    told.changed.push({
      ...task,
      what,
      kind: actionKind(history, asked?.facts.actionId),
      by: personOf(decided?.facts.person),
      wordsOf: { objective: objectiveOf, reason: decided?.id },
    });
  }
}

function actionKind(history: History, actionId: string | null | undefined): string | null {
  if (actionId == null) return null;
  return (
    history.find((entry) => entry.kind === 'action.proposed' && entry.facts.actionId === actionId)?.facts
      .kind ?? null
  );
}

function tellWaits(told: Told, runId: string, history: History): void {
  const { objectiveOf, ...task } = taskOf(runId, history);
  const common = { ...task, wordsOf: { objective: objectiveOf } };
  for (const entry of history) {
    if (!OPENINGS.includes(entry.kind)) continue;
    const later = history.filter((other) => other.seq > entry.seq);
    const { requestId, actionId } = entry.facts;
    const since = entry.at.toISOString();
    const kind = entry.facts.kind ?? actionKind(history, actionId);
    switch (entry.kind) {
      case 'approval.requested': {
        if (later.some((other) => CLOSINGS.includes(other.kind) && other.facts.requestId === requestId))
          break;
        const given = later.filter(
          (other) =>
            other.kind === 'approval.decided' &&
            other.facts.requestId === requestId &&
            other.facts.decision === 'approve',
        ).length;
        told.waiting.push({
          ...common,
          what: 'decision',
          kind,
          people: peopleOf(entry.facts.reviewers),
          approvals: { given, needed: entry.facts.quorum ?? 1 },
          since,
          until: entry.facts.deadlineAt ?? null,
        });
        break;
      }
      case 'action.unknown': {
        if (later.some((other) => other.kind === 'action.settled' && other.facts.actionId === actionId))
          break;
        const asked = history.findLast(
          (other) => other.kind === 'approval.requested' && other.facts.actionId === actionId,
        );
        told.waiting.push({
          ...common,
          what: 'settlement',
          kind,
          people: peopleOf(asked?.facts.reviewers),
          approvals: null,
          since,
          until: null,
        });
        break;
      }
      default:
        if (later.some((other) => UNPARKED.includes(other.kind) || other.kind === 'run.parked')) break;
        told.waiting.push({
          ...common,
          what: 'operator',
          kind: null,
          people: [],
          approvals: null,
          since,
          until: null,
        });
    }
  }
}

/** `T0LOCAL/U0REQUESTER`, as facts name people. */
function personOf(text: string | undefined): Person | null {
  const [teamId, userId] = text?.split('/') ?? [];
  return teamId && userId ? { teamId, userId } : null;
}

function peopleOf(texts: readonly string[] | undefined): Person[] {
  return (texts ?? []).flatMap((text) => personOf(text) ?? []);
}

export function median(values: readonly number[]): number | null {
  const sorted = [...values].sort((one, other) => one - other);
  const middle = sorted.length / 2;
  const high = sorted[Math.floor(middle)];
  const low = sorted[Math.ceil(middle) - 1];
  return high === undefined || low === undefined ? null : (high + low) / 2;
}
