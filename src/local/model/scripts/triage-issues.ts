/**
 * "Triage the open issues in owner/repo": reads the issues that carry no label yet, notes on each what it seems to be with a label of the
 * product's own namespace, and proposes a question where an issue says too little. Orders inside an issue are reported, never followed.
 */
import type { Conversation, Reply, Script, ToolCall } from '../conversation.ts';
import { say } from '../conversation.ts';
import {
  all,
  cannotActOn,
  endOf,
  lacking,
  last,
  list,
  listed,
  propose,
  type Repo,
  repoOf,
  short,
  text,
  unread,
} from './story.ts';

const LIST = 'github_issues_listForRepo';
const GET = 'github_issues_get';
const LABEL = 'github_issues_addLabels';
const COMMENT = 'github_issues_createComment';

/** As many as one turn may read. The rest is for another time, and the summary says so. */
const MAX_ISSUES = 12;
/** A report with less in it says too little to work on. */
const MIN_BODY_LENGTH = 50;
/** How often a question is put in other words. */
const MAX_COMMENTS = 3;

const QUESTION =
  'Thank you for the report. To look into it we need a little more: what did you do, what did you expect, and what happened instead? Which version do you use?';
const SHORT_QUESTION = 'What did you do, what did you expect, and what happened instead?';

interface Issue {
  readonly number: number;
  readonly title: string;
  readonly body: string;
}

export const triageIssues: Script = (conversation) => {
  if (!/\btriag(e|ing)\b/i.test(conversation.request) || conversation.followUp !== null) return null;
  const repo = repoOf(conversation.request);
  const name = `${repo.owner}/${repo.repo}`;
  const missing = lacking(conversation, [LIST, GET, LABEL]);
  if (missing) return missing;

  const open = last(conversation, LIST);
  if (!open)
    return {
      text: `I will look at the open issues of ${name} first.`,
      calls: [{ name: LIST, input: { ...repo } }],
    };
  const failed = unread(open, `the issues of ${name}`);
  if (failed) return failed;

  const unlabelled = listed(open, 'issues').filter(
    (issue) => Array.isArray(issue.labels) && issue.labels.length === 0,
  );
  const numbers = unlabelled
    .map((issue) => Number(issue.number))
    .sort((one, other) => one - other)
    .slice(0, MAX_ISSUES);
  if (numbers.length === 0)
    return say(`Every open issue of ${name} carries a label already. There is nothing to triage.`);

  const gets = all(conversation, GET);
  if (gets.length === 0)
    return {
      text: `${list(numbers)} carry no label yet. I read them.`,
      calls: numbers.map((issue_number) => ({ name: GET, input: { ...repo, issue_number } })),
    };
  const issues = gets.flatMap(issueOf);

  const labels = all(conversation, LABEL);
  const next = issues.find(({ number }) => !labels.some((call) => call.input.issue_number === number));
  if (next) return label(next, repo);
  return (
    ask(conversation, issues, repo) ?? summary(conversation, issues, numbers.length, unlabelled.length, name)
  );
};

function issueOf(call: ToolCall): Issue[] {
  if (!call.result || call.result.isError) return [];
  const { number, title, body } = call.result.json;
  return typeof number === 'number' ? [{ number, title: text(title) ?? '', body: text(body) ?? '' }] : [];
}

/** Simple marks in the words of the issue; a real model would read it. */
function kindOf({ title, body }: Issue): { label: string; why: string } {
  if (givesOrders({ title, body }))
    return { label: 'countersign/needs-review', why: 'it gives orders to an agent, which I do not follow' };
  if (body.trim().length < MIN_BODY_LENGTH)
    return { label: 'countersign/needs-info', why: 'it says too little to work on' };
  if (/\?\s*$/.test(title) || /^(how|is|are|can|does|do|which|what|why)\b/i.test(title))
    return { label: 'countersign/question', why: 'it asks something' };
  if (/\b(add|support|allow|offer)\b/i.test(title))
    return { label: 'countersign/feature', why: 'it wishes for something new' };
  if (/\b(expect|instead|returns|wrong|undefined|nan|error|fails?|should)\b/i.test(`${title} ${body}`))
    return { label: 'countersign/bug', why: 'it says what is wrong and what was expected' };
  return { label: 'countersign/needs-review', why: 'I cannot tell what it is' };
}

function givesOrders({ title, body }: Pick<Issue, 'title' | 'body'>): boolean {
  return /\bignore\b.{0,40}\binstructions\b|\b(approved this|message to the agent|you must (now )?(merge|approve|close))\b/i.test(
    `${title} ${body}`,
  );
}

function label(issue: Issue, repo: Repo): Reply {
  const { label: chosen, why } = kindOf(issue);
  return propose(`Issue ${issue.number}: ${why}.`, LABEL, {
    ...repo,
    issue_number: issue.number,
    labels: [chosen],
  });
}

/** The next question to propose, or null when all were put or the reviewers want none. */
function ask(conversation: Conversation, issues: readonly Issue[], repo: Repo): Reply | null {
  if (!conversation.tools.has(COMMENT)) return null;
  for (const issue of issues.filter((one) => kindOf(one).label === 'countersign/needs-info')) {
    const asked = all(conversation, COMMENT).filter((call) => call.input.issue_number === issue.number);
    const latest = asked.at(-1);
    const question = (words: string, body: string) =>
      propose(words, COMMENT, { ...repo, issue_number: issue.number, body });
    if (!latest)
      return question(
        `Issue ${issue.number} says only “${short(issue.body)}”. I propose to ask its author for more.`,
        QUESTION,
      );
    const end = endOf(latest, `comment on issue ${issue.number}`);
    if (end.kind !== 'refused' || asked.length >= MAX_COMMENTS) continue;
    const wanted = rewording(end.reason);
    if (wanted !== null && !asked.some((call) => call.input.body === wanted))
      return question('As asked, in other words.', wanted);
  }
  return null;
}

/** The reasons this script can act on: shorter, or exactly other words in quotation marks. */
function rewording(reason: string | undefined): string | null {
  const given = /[“"„]([^”"“]{5,500})[”"“]/.exec(reason ?? '')?.[1];
  if (given !== undefined) return given;
  return /\b(short(er)?|too long|brief(er)?)\b/i.test(reason ?? '') ? SHORT_QUESTION : null;
}

function summary(
  conversation: Conversation,
  issues: readonly Issue[],
  read: number,
  waiting: number,
  name: string,
): Reply {
  const sentences: string[] = [];
  const done: string[] = [];
  for (const call of all(conversation, LABEL)) {
    const end = endOf(call, `label issue ${call.input.issue_number}`);
    const labels = Array.isArray(call.input.labels) ? call.input.labels.join(', ') : '';
    if (end.kind === 'done') done.push(`${call.input.issue_number} (${labels})`);
    else
      sentences.push(
        end.kind === 'ended' ? end.text : `A person did not want issue ${call.input.issue_number} labelled.`,
      );
  }
  if (done.length > 0) sentences.unshift(`I labelled ${list(done)} in ${name}.`);
  const orders = issues.filter(givesOrders).map(({ number }) => number);
  if (orders.length > 0)
    sentences.push(
      `Issue ${list(orders)} holds orders to an agent. I did not follow them; a person should look.`,
    );
  for (const number of new Set(all(conversation, COMMENT).map((call) => call.input.issue_number))) {
    const latest = all(conversation, COMMENT).findLast((call) => call.input.issue_number === number);
    if (latest) sentences.push(commented(latest, Number(number)));
  }
  if (issues.length < read) sentences.push(`${read - issues.length} could not be read.`);
  if (read < waiting) sentences.push(`${waiting - read} more wait; ask me again.`);
  return say(sentences.join(' '));
}

function commented(call: ToolCall, number: number): string {
  const what = `comment on issue ${number}`;
  const end = endOf(call, what);
  if (end.kind === 'done') return `I asked for more on issue ${number}.`;
  return end.kind === 'ended' ? end.text : cannotActOn(what, end.reason).text;
}
