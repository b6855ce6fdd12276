/**
 * "Merge pull request N in owner/repo": looks at the pull request, then at what it changes and at its checks, then
 * proposes the merge, and acts on what came of the proposal. Every sentence rests on a result in the conversation.
 */
import { type Conversation, type Reply, record, type Script, say, type ToolCall } from '../conversation.ts';

const GET = 'github_pulls_get';
const COMPARE = 'github_repos_compareCommitsWithBasehead';
const CHECKS = 'github_checks_listForRef';
const MERGE = 'github_pulls_merge';

type Method = 'squash' | 'merge' | 'rebase';

/** A reviewer who sends it back more often wants a person or a real model. */
const MAX_PROPOSALS = 3;
/** The local GitHub's only repository, meant by a request that names none. */
const DEFAULT_REPO = 'acme/shop';
const BAD_CONCLUSIONS = new Set([
  'failure',
  'timed_out',
  'cancelled',
  'action_required',
  'startup_failure',
  'stale',
]);

interface Target {
  readonly owner: string;
  readonly repo: string;
  readonly pull_number: number;
}

export const mergePullRequest: Script = (conversation) => {
  const target = targetOf(conversation.request);
  if (!target || conversation.followUp !== null) return null;
  const name = `${target.owner}/${target.repo}#${target.pull_number}`;
  const missing = [GET, MERGE].find((tool) => !conversation.tools.has(tool));
  if (missing) return say(`I cannot do that: I was not given the tool ${missing}.`);

  const get = last(conversation, GET);
  if (!get) {
    return { text: `I will look at ${name} first.`, calls: [{ name: GET, input: { ...target } }] };
  }
  const refusal = whyNot(get, name);
  if (refusal) return say(refusal);

  const merges = conversation.calls.filter((call) => call.name === MERGE);
  const merge = merges.at(-1);
  if (merge) return afterProposal(conversation, merges, merge, target, name);

  const compare = last(conversation, COMPARE);
  const checks = last(conversation, CHECKS);
  if (!compare && !checks) {
    const calls = evidenceCalls(conversation, get, target);
    if (calls.length > 0) return { text: `${name} is open. Now what it changes, and its checks.`, calls };
  }
  const verdict = judgeChecks(checks);
  if (!verdict.ok) return say(`I do not propose to merge ${name}: ${verdict.text}`);
  const method = methodNamed(conversation.request) ?? 'squash';
  const title = text(get.result?.json.title);
  const reason = [
    `I propose to merge ${name}${title ? ` (“${title}”)` : ''} by ${method}.`,
    describeChange(compare),
    verdict.text,
  ];
  return propose(reason.filter(Boolean).join(' '), target, method);
};

/** Null unless the text asks for a merge of a numbered pull request. */
function targetOf(request: string): Target | null {
  const link = /([\w.-]+)\/([\w.-]+)\/pull\/(\d+)/.exec(request);
  const short = /([\w.-]+)\/([\w.-]+)#(\d+)/.exec(request);
  const plain =
    /\bmerge\s+(?:the\s+)?(?:pull[\s-]+request|pull|pr)?\s*(?:number\s+|no\.?\s*)?#?(\d+)\b/i.exec(request);
  if (!/\bmerge\b/i.test(request)) return null;
  const exact = link ?? short;
  if (exact) return { owner: exact[1] ?? '', repo: exact[2] ?? '', pull_number: Number(exact[3]) };
  if (!plain) return null;
  const named = /\b(?:in|of|on|from|at|to)\s+[`"'<]?([\w-][\w.-]*)\/([\w-][\w.-]*[\w-]|[\w-])/i.exec(request);
  const [owner = '', repo = ''] = named ? [named[1], named[2]] : DEFAULT_REPO.split('/');
  return { owner, repo, pull_number: Number(plain[1]) };
}

function whyNot(get: ToolCall, name: string): string | null {
  if (!get.result) return null;
  const { isError, json } = get.result;
  if (isError) {
    return /404|not[\s_-]?found/i.test(get.result.text)
      ? `I could not find ${name}: GitHub knows no such pull request, or I may not see it. Nothing was done.`
      : `I could not read ${name}, so nothing was done. GitHub said: ${short(get.result.text)}`;
  }
  if (json.merged === true) return `${name} is already merged. There is nothing to do.`;
  if (typeof json.state === 'string' && json.state !== 'open') {
    return `${name} is ${json.state} and was not merged. I left it as it is.`;
  }
  if (json.draft === true) return `${name} is still a draft. I left it as it is.`;
  if (json.mergeable === false) {
    return `${name} conflicts with its base branch and cannot be merged as it is. Nothing was done.`;
  }
  return null;
}

function evidenceCalls(conversation: Conversation, get: ToolCall, target: Target): Reply['calls'] {
  const { owner, repo } = target;
  const head = record(get.result?.json.head);
  const base = record(get.result?.json.base);
  const from = text(base.ref) ?? text(base.sha);
  const to = text(head.sha) ?? text(head.ref);
  const calls: { name: string; input: Record<string, unknown> }[] = [];
  if (from && to && conversation.tools.has(COMPARE)) {
    calls.push({ name: COMPARE, input: { owner, repo, basehead: `${from}...${to}` } });
  }
  if (to && conversation.tools.has(CHECKS)) calls.push({ name: CHECKS, input: { owner, repo, ref: to } });
  return calls;
}

function judgeChecks(checks: ToolCall | undefined): { ok: boolean; text: string } {
  if (!checks?.result) return { ok: true, text: 'I could not look at its checks: I have no tool for that.' };
  if (checks.result.isError)
    return { ok: false, text: `its checks could not be read (${short(checks.result.text)}).` };
  const listed = checks.result.json.check_runs;
  const runs = (Array.isArray(listed) ? listed : []).map(record);
  const names = (some: typeof runs) => some.map((run) => text(run.name) ?? 'unnamed').join(', ');
  const bad = runs.filter((run) => BAD_CONCLUSIONS.has(String(run.conclusion)));
  if (bad.length > 0) return { ok: false, text: `its checks failed (${names(bad)}).` };
  const unfinished = runs.filter((run) => run.status !== undefined && run.status !== 'completed');
  if (unfinished.length > 0)
    return { ok: false, text: `its checks are still running (${names(unfinished)}).` };
  if (runs.length === 0) return { ok: true, text: 'No checks ran on it.' };
  return { ok: true, text: `Its checks succeeded (${names(runs)}).` };
}

function describeChange(compare: ToolCall | undefined): string {
  if (!compare?.result || compare.result.isError) return '';
  const { json } = compare.result;
  const files = (Array.isArray(json.files) ? json.files : []).map(record);
  if (files.length === 0) return '';
  const total = (field: string) => files.reduce((sum, file) => sum + (Number(file[field]) || 0), 0);
  const listed = files.slice(0, 5).map((file) => text(file.filename) ?? 'unnamed');
  const more = files.length > listed.length ? ` and ${files.length - listed.length} more` : '';
  const behind =
    Number(json.behind_by) > 0 ? ` The base branch has moved on by ${json.behind_by} since.` : '';
  return `It changes ${listed.join(', ')}${more} (+${total('additions')} −${total('deletions')}).${behind}`;
}

function afterProposal(
  conversation: Conversation,
  merges: readonly ToolCall[],
  merge: ToolCall,
  target: Target,
  name: string,
): Reply {
  const result = merge.result;
  if (!result || result.isError)
    return say(`The merge of ${name} did not go through: ${short(result?.text ?? 'no result')}`);
  const { json } = result;
  const reason = text(json.reason);
  const because = reason ? ` The reason given: ${short(reason)}` : '';
  switch (json.status) {
    case 'done': {
      const sha = text(record(json.receipt).sha);
      const method = text(merge.input.merge_method) ?? 'merge';
      return say(`Done: ${name} is merged by ${method}${sha ? ` as ${sha.slice(0, 12)}` : ''}.`);
    }
    case 'rejected':
    case 'changes_requested':
      return afterRejection(conversation, merges, target, name, reason);
    case 'denied':
      return say(`Policy denies the merge of ${name}, so it did not happen.${because}`);
    case 'expired':
      return say(`Nobody decided in time, so ${name} was not merged. Ask again when a reviewer is there.`);
    case 'superseded':
      return say(
        `${name} changed after it was shown for review, so that review no longer counts and it was not merged.${because}`,
      );
    case 'withdrawn':
      return say(`The request to merge ${name} was withdrawn; it was not merged.`);
    case 'revoked':
      return say(`The approval to merge ${name} was taken back; it was not merged.${because}`);
    case 'failed':
      return say(`The merge of ${name} was approved but failed.${because}`);
    case 'unknown':
      return say(`Whether ${name} was merged is not known; a person has to look. I will not try again.`);
    default:
      return say(
        `The merge of ${name} ended in a way that I, a scripted model, do not know: ${short(result.text)}`,
      );
  }
}

function afterRejection(
  conversation: Conversation,
  merges: readonly ToolCall[],
  target: Target,
  name: string,
  reason: string | undefined,
): Reply {
  const wanted = reason ? methodNamed(reason) : null;
  const tried = new Set(merges.map((call) => call.input.merge_method));
  if (wanted && !tried.has(wanted) && merges.length < MAX_PROPOSALS) {
    const verdict = judgeChecks(last(conversation, CHECKS));
    return propose(
      `As asked, by ${wanted} instead: I propose to merge ${name} that way. ${verdict.text}`,
      target,
      wanted,
    );
  }
  if (reason && /\b(wait|not (now|yet|today)|later|hold( off)?|tomorrow)\b/i.test(reason)) {
    return say(`Understood: I leave ${name} open. Ask me again when it may be merged.`);
  }
  if (!reason) return say(`The merge of ${name} was rejected without a reason. I left it open.`);
  return say(
    `The merge of ${name} was rejected: ${short(reason)} I am a scripted model and cannot act on that reason; I left the pull request open.`,
  );
}

function methodNamed(words: string): Method | null {
  if (/\bmerge[\s-]commit\b|\bno[\s-]?squash\b|\b(don'?t|do not) squash\b/i.test(words)) return 'merge';
  if (/\brebas(e|ed|ing)\b/i.test(words)) return 'rebase';
  if (/\bsquash(ed|ing)?\b/i.test(words)) return 'squash';
  return null;
}

function propose(words: string, target: Target, merge_method: Method): Reply {
  return { text: words, calls: [{ name: MERGE, input: { ...target, merge_method } }] };
}

function last(conversation: Conversation, name: string): ToolCall | undefined {
  return conversation.calls.findLast((call) => call.name === name);
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' && value ? value : undefined;
}

function short(words: string): string {
  return words.length > 300 ? `${words.slice(0, 300)}…` : words;
}
