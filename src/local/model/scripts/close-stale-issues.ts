/**
 * "Close stale issues in owner/repo": proposes one action that names every open issue nobody has touched for half a year before the newest
 * activity. A script has no clock: what is old is measured against the list itself, and said so.
 */
import { type Reply, type Script, say, type ToolCall } from '../conversation.ts';
import {
  all,
  cannotActOn,
  endOf,
  lacking,
  last,
  list,
  listed,
  MAX_PROPOSALS,
  propose,
  type Repo,
  repoOf,
  text,
  unread,
} from './story.ts';

const LIST = 'github_issues_listForRepo';
const GET = 'github_issues_get';
const CLOSE = 'github_issues_update';

const STALE_DAYS = 180;
const DAY_MS = 86_400_000;
/** As many as one turn may read. */
const MAX_ISSUES = 16;

export const closeStaleIssues: Script = (conversation) => {
  const { request } = conversation;
  if (
    !/\bclose\b/i.test(request) ||
    !/\bstale\b|\bold issues\b/i.test(request) ||
    conversation.followUp !== null
  )
    return null;
  const repo = repoOf(request);
  const name = `${repo.owner}/${repo.repo}`;
  const missing = lacking(conversation, [LIST, GET, CLOSE]);
  if (missing) return missing;

  const open = last(conversation, LIST);
  if (!open)
    return {
      text: `I will look at the open issues of ${name} first.`,
      calls: [{ name: LIST, input: { ...repo } }],
    };
  const failed = unread(open, `the issues of ${name}`);
  if (failed) return failed;

  const closes = all(conversation, CLOSE);
  const latest = closes.at(-1);
  if (latest) return afterProposal(closes, latest, repo);

  const issues = listed(open, 'issues');
  const touched = issues.map((issue) => Date.parse(text(issue.updated_at) ?? '')).filter(Number.isFinite);
  const newest = Math.max(...touched);
  const stale = issues
    .filter((issue) => Date.parse(text(issue.updated_at) ?? '') < newest - STALE_DAYS * DAY_MS)
    .map((issue) => Number(issue.number))
    .sort((one, other) => one - other)
    .slice(0, MAX_ISSUES);
  if (stale.length === 0)
    return say(
      `No open issue of ${name} is stale: each was touched in the ${STALE_DAYS} days before the newest one. I closed nothing.`,
    );
  const gets = all(conversation, GET);
  if (gets.length === 0)
    return {
      text: `${list(stale)} were not touched for ${STALE_DAYS} days. I read them before I propose anything.`,
      calls: stale.map((issue_number) => ({ name: GET, input: { ...repo, issue_number } })),
    };
  const read = gets.flatMap(staleOf);
  if (read.length === 0) return say(`I could not read the stale issues of ${name}, so nothing was done.`);
  const since = new Date(newest).toISOString().slice(0, 10);
  const words = `Nobody has touched these in the ${STALE_DAYS} days before ${since}: ${read.map(({ number, title, day }) => `${number} (“${title}”, ${day})`).join(', ')}. I propose to close them as not planned; each can be opened again.`;
  return propose(
    words,
    CLOSE,
    inputOf(
      repo,
      read.map(({ number }) => number),
    ),
  );
};

function staleOf(call: ToolCall): { number: number; title: string; day: string }[] {
  if (!call.result || call.result.isError) return [];
  const { number, title, updated_at, state } = call.result.json;
  if (typeof number !== 'number' || state !== 'open') return [];
  return [{ number, title: text(title) ?? '', day: (text(updated_at) ?? '').slice(0, 10) }];
}

function inputOf(repo: Repo, issue_numbers: readonly number[]): Record<string, unknown> {
  return { ...repo, issue_numbers: [...issue_numbers], state: 'closed', state_reason: 'not_planned' };
}

function afterProposal(closes: readonly ToolCall[], latest: ToolCall, repo: Repo): Reply {
  const numbers = numbersOf(latest.input.issue_numbers);
  const what = `close ${numbers.length === 1 ? 'issue' : 'issues'} ${list(numbers)}`;
  const end = endOf(latest, what);
  if (end.kind === 'ended') return say(end.text);
  if (end.kind === 'refused') {
    const kept = keptBy(end.reason, numbers);
    const rest = numbers.filter((number) => !kept.includes(number));
    if (kept.length > 0 && rest.length > 0 && closes.length < MAX_PROPOSALS)
      return propose(
        `As asked, without ${list(kept)}: I propose to close ${list(rest)}.`,
        CLOSE,
        inputOf(repo, rest),
      );
    if (kept.length > 0 && rest.length === 0) return say(`Understood: I leave ${list(kept)} open.`);
    return cannotActOn(what, end.reason);
  }
  const closed = numbersOf(end.receipt.closed);
  const before = numbersOf(end.receipt.closed_before);
  const left = Array.isArray(end.receipt.left) ? end.receipt.left.length : 0;
  const sentences = [
    closed.length === 0 ? '' : `I closed ${list(closed)} in ${repo.owner}/${repo.repo}.`,
    before.length === 0 ? '' : `${list(before)} ${before.length === 1 ? 'was' : 'were'} closed already.`,
    left === 0 ? '' : `${left} could not be closed; the receipt in this thread says why.`,
  ];
  return say(sentences.filter(Boolean).join(' ') || 'Nothing was left to close.');
}

/** "keep #5", "not 5 and 6", "without 5", "except 5": the numbers of a sentence that says one of these. */
function keptBy(reason: string | undefined, numbers: readonly number[]): readonly number[] {
  if (!/\b(keep|not|without|except|leave|but)\b/i.test(reason ?? '')) return [];
  const named = [...(reason ?? '').matchAll(/#?(\d+)\b/g)].map((match) => Number(match[1]));
  return numbers.filter((number) => named.includes(number));
}

function numbersOf(value: unknown): readonly number[] {
  return (Array.isArray(value) ? value : []).filter((number): number is number => typeof number === 'number');
}
