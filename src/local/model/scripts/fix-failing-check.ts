/**
 * "Fix the failing check in owner/repo": reads which check fails on main, or failed when one last ran, and what it says, reads the files
 * as they are now, and proposes a commit on a new branch, then a pull request.
 *
 * It knows one failure and one cure. Where a file is not word for word what the cure was written for, it says so and stops: an edit that
 * is put somewhere nearby is worse than none.
 */
import { type Conversation, type Reply, type Script, say, type ToolCall } from '../conversation.ts';
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

const COMMITS = 'github_repos_listCommits';
const CHECKS = 'github_checks_listForRef';
const CONTENT = 'github_repos_getContent';
const COMMIT = 'github_git_createCommit';
const OPEN = 'github_pulls_create';

const BASE = 'main';
const BRANCH = 'countersign/thank-only-by-name';
const TITLE = 'Thank only customers whose name is known';
/** Commits that may have come since a check last ran. */
const LOOKED_BACK = 5;
const BAD_CONCLUSIONS = new Set(['failure', 'timed_out', 'startup_failure']);

interface Edit {
  readonly path: string;
  /** Stands in the file exactly once, or the edit does not fit. */
  readonly find: string;
  readonly put: string;
}

const SOURCE: Edit = {
  path: 'src/receipt.ts',
  find: `  return [...rows, \`Items \${items}\`, total, \`Thank you, \${customer}!\`].join('\\n');\n`,
  put: `  const thanks = customer === undefined ? [] : [\`Thank you, \${customer}!\`];
  return [...rows, \`Items \${items}\`, total, ...thanks].join('\\n');
`,
};
const TEST: Edit = {
  path: 'test/receipt.test.ts',
  find: "test('a receipt thanks the customer by name', () => {\n",
  put: "test('a receipt without a name thanks nobody', () => {\n  assert.doesNotMatch(receipt([tea]), /Thank you/);\n});\n\ntest('a receipt thanks the customer by name', () => {\n",
};
const EDITS: readonly Edit[] = [SOURCE, TEST];

export const fixFailingCheck: Script = (conversation) => {
  const { request } = conversation;
  if (
    !/\b(fix|repair)\b/i.test(request) ||
    !/\bcheck\b|\bci\b|\bnightly\b/i.test(request) ||
    conversation.followUp !== null
  )
    return null;
  const repo = repoOf(request);
  const name = `${repo.owner}/${repo.repo}`;
  const missing = lacking(conversation, [COMMITS, CHECKS, CONTENT, COMMIT, OPEN]);
  if (missing) return missing;

  const commits = last(conversation, COMMITS);
  if (!commits)
    return {
      text: `I will look at the newest commits of ${BASE} in ${name} first.`,
      calls: [{ name: COMMITS, input: { ...repo, sha: BASE, per_page: LOOKED_BACK } }],
    };
  const failed = unread(commits, `the commits of ${name}`);
  if (failed) return failed;
  const newest = listed(commits, 'commits').flatMap((commit) => text(commit.sha) ?? []);
  const [sha] = newest;
  if (sha === undefined) return say(`${BASE} of ${name} holds no commit. Nothing was done.`);

  const looks = all(conversation, CHECKS);
  const checks = looks.at(-1);
  const look = (words: string, ref: string): Reply => ({
    text: words,
    calls: [{ name: CHECKS, input: { ...repo, ref } }],
  });
  if (!checks) return look(`Now the checks of ${sha.slice(0, 12)}.`, sha);
  const unchecked = unread(checks, `the checks of ${name}`);
  if (unchecked) return unchecked;
  const before = newest[looks.length];
  // What came to main since the last night was not checked yet.
  if (listed(checks, 'check_runs').length === 0 && before !== undefined)
    return look(`No check ran there yet. I look at the commit before it, ${before.slice(0, 12)}.`, before);
  const at = (text(checks.input.ref) ?? sha).slice(0, 12);
  const failing = listed(checks, 'check_runs').filter((run) => BAD_CONCLUSIONS.has(String(run.conclusion)));
  if (failing.length === 0)
    return say(
      `No check fails at ${at}, ${at === sha.slice(0, 12) ? 'the tip' : 'the newest checked commit'} of ${BASE} in ${name}. There is nothing to fix.`,
    );
  const known = failing.find((run) => isKnown(text(run.summary) ?? ''));
  if (!known)
    return say(
      `${list(failing.map((run) => text(run.name) ?? 'unnamed'))} fails at ${at}, but not in a way that I know. I am a scripted model with one cure; nothing was done.`,
    );

  const files = all(conversation, CONTENT);
  if (files.length === 0)
    return {
      text: `The check ${text(known.name)} fails: a receipt without a name thanks “undefined”. I read the files as they are at ${sha.slice(0, 12)}.`,
      calls: EDITS.map(({ path }) => ({ name: CONTENT, input: { ...repo, path, ref: sha } })),
    };
  const fit = EDITS.map((edit) =>
    edited(
      edit,
      files.find((call) => call.input.path === edit.path),
      sha,
    ),
  );
  const misfit = fit.find((one) => 'why' in one);
  if (misfit && 'why' in misfit) return say(misfit.why);
  const whole = fit.flatMap((one) => ('content' in one ? [one] : []));
  return commit(conversation, repo, sha, whole);
};

function isKnown(summary: string): boolean {
  return summary.includes(SOURCE.path) && summary.includes('Thank you, undefined!');
}

interface Changed {
  readonly path: string;
  readonly content: string;
}

/** The file with the edit in it, or why it does not fit. */
function edited(edit: Edit, call: ToolCall | undefined, sha: string): Changed | { readonly why: string } {
  const at = `${edit.path} at ${sha.slice(0, 12)}`;
  const content = call?.result?.isError === false ? call.result.json.content : undefined;
  if (typeof content !== 'string') return { why: `I could not read ${at}, so nothing was changed.` };
  const places = content.split(edit.find).length - 1;
  if (places !== 1)
    return {
      why: `${at} is not what I expect: the lines that I know how to change ${places === 0 ? 'are not there' : `stand there ${places} times`}. I do not guess; nothing was changed.`,
    };
  return { path: edit.path, content: content.replace(edit.find, () => edit.put) };
}

function commit(conversation: Conversation, repo: Repo, sha: string, files: readonly Changed[]): Reply {
  const commits = all(conversation, COMMIT);
  const latest = commits.at(-1);
  const make = (words: string, branch: string, some: readonly Changed[]): Reply =>
    propose(words, COMMIT, {
      ...repo,
      branch,
      base_sha: sha,
      message: `${TITLE}\n\nA receipt for a guest ended with "Thank you, undefined!".`,
      files: some,
    });
  if (!latest)
    return make(
      `A receipt for a guest ends with “Thank you, undefined!”, because the name is optional and printed all the same. I propose to leave the line out then, with a test for it, on the new branch ${BRANCH}. I could not run the tests.`,
      BRANCH,
      files,
    );

  const branch = text(latest.input.branch) ?? BRANCH;
  const what = `commit to the new branch ${branch}`;
  const end = endOf(latest, what);
  if (end.kind === 'ended') return say(end.text);
  if (end.kind === 'done') return open(conversation, repo, branch);
  if (commits.length < MAX_PROPOSALS) {
    const named = /\bbranch\s+(?:name\s+|named\s+|called\s+)?[`"'“]?([a-z0-9][a-z0-9/_-]{2,60})/i.exec(
      end.reason ?? '',
    )?.[1];
    if (named !== undefined && !commits.some((call) => call.input.branch === named))
      return make(`As asked, on the branch ${named}.`, named, files);
    const hasTest = Array.isArray(latest.input.files) && latest.input.files.length > 1;
    if (/\b(without|no|drop|leave out)\s+(the\s+|a\s+)?tests?\b/i.test(end.reason ?? '') && hasTest)
      return make(
        'As asked, without the test.',
        branch,
        files.filter(({ path }) => path === SOURCE.path),
      );
  }
  return cannotActOn(what, end.reason);
}

function open(conversation: Conversation, repo: Repo, branch: string): Reply {
  const opened = all(conversation, OPEN);
  const latest = opened.at(-1);
  const make = (words: string, draft: boolean): Reply =>
    propose(words, OPEN, {
      ...repo,
      head: branch,
      base: BASE,
      title: TITLE,
      body: 'The nightly check fails because a receipt without a name ends with "Thank you, undefined!". The line is left out then.',
      draft,
    });
  if (!latest)
    return make(
      `The commit is on ${branch}. I propose a pull request into ${BASE}; it merges nothing.`,
      false,
    );
  const what = `open a pull request from ${branch}`;
  const end = endOf(latest, what);
  if (end.kind === 'done') {
    const number = end.receipt.pull_number;
    return say(
      `Pull request ${typeof number === 'number' ? number : ''} from ${branch} into ${BASE} is open. I could not run its tests; look at its checks, then ask me to merge it.`,
    );
  }
  if (end.kind === 'ended') return say(`${end.text} The commit stays on ${branch}.`);
  if (/\bdraft\b/i.test(end.reason ?? '') && latest.input.draft !== true)
    return make('As asked, as a draft.', true);
  return say(`${cannotActOn(what, end.reason).text} The commit stays on ${branch}.`);
}
