/**
 * "Write a release note draft for owner/repo": reads the newest release and the commits since its tag, and proposes a draft with one line
 * for each. A person publishes it.
 */
import { type Conversation, type Reply, type Script, say, type ToolCall } from '../conversation.ts';
import {
  all,
  cannotActOn,
  endOf,
  type Fields,
  lacking,
  last,
  listed,
  MAX_PROPOSALS,
  propose,
  type Repo,
  repoOf,
  text,
  unread,
} from './story.ts';

const RELEASES = 'github_repos_listReleases';
const COMMITS = 'github_repos_listCommits';
const DRAFT = 'github_repos_createRelease';

type Part = 'major' | 'minor' | 'patch';

export const draftReleaseNote: Script = (conversation) => {
  const { request } = conversation;
  if (
    !/\brelease\s+notes?\b|\bdraft (a |the )?(next )?release\b/i.test(request) ||
    conversation.followUp !== null
  )
    return null;
  const repo = repoOf(request);
  const name = `${repo.owner}/${repo.repo}`;
  const missing = lacking(conversation, [RELEASES, COMMITS, DRAFT]);
  if (missing) return missing;

  const releases = last(conversation, RELEASES);
  if (!releases)
    return {
      text: `I will look at the releases of ${name} first.`,
      calls: [{ name: RELEASES, input: { ...repo } }],
    };
  const failed = unread(releases, `the releases of ${name}`);
  if (failed) return failed;
  const latest = listed(releases, 'releases').find((release) => release.draft !== true);
  const tag = text(latest?.tag_name);
  if (tag === undefined)
    return say(`${name} has no release yet, and I only know how to go on from one. Nothing was done.`);

  const [tagged, newer] = all(conversation, COMMITS);
  if (!tagged || !newer)
    return {
      text: `The newest release is ${tag}. Now the commits since.`,
      calls: [
        { name: COMMITS, input: { ...repo, sha: tag, per_page: 1 } },
        { name: COMMITS, input: { ...repo, per_page: 100 } },
      ],
    };
  const lost = unread(tagged, `the tag ${tag} of ${name}`) ?? unread(newer, `the commits of ${name}`);
  if (lost) return lost;
  const commits = listed(newer, 'commits');
  const since = commits.findIndex((commit) => commit.sha === listed(tagged, 'commits')[0]?.sha);
  if (since < 0)
    return say(
      `I do not find ${tag} among the newest ${commits.length} commits of ${name}, so I cannot tell what came since. Nothing was done.`,
    );
  if (since === 0)
    return say(`Nothing was committed to ${name} since ${tag}. There is nothing to write about.`);
  return draft(conversation, repo, tag, commits.slice(0, since));
};

function draft(conversation: Conversation, repo: Repo, tag: string, commits: readonly Fields[]): Reply {
  const drafts = all(conversation, DRAFT);
  const latest = drafts.at(-1);
  const subjects = commits.map((commit) => (text(commit.message) ?? '').split('\n')[0] ?? '');
  const usual = bump(tag, subjects.some((subject) => /^add\b/i.test(subject)) ? 'minor' : 'patch');
  if (usual === null) return say(`I do not know which version comes after ${tag}. Nothing was done.`);
  const make = (words: string, next: string): Reply =>
    propose(words, DRAFT, {
      ...repo,
      tag_name: next,
      target_commitish: text(commits[0]?.sha) ?? '',
      name: next.replace(/^v/, ''),
      body: subjects.map((subject) => `- ${subject}`).join('\n'),
    });
  if (!latest)
    return make(
      `Since ${tag} there ${commits.length === 1 ? 'is 1 commit' : `are ${commits.length} commits`}. I propose to draft ${usual} with one line for each; a person publishes it.`,
      usual,
    );

  const drafted = text(latest.input.tag_name) ?? usual;
  const end = endOf(latest, `draft release ${drafted}`);
  if (end.kind === 'done')
    return say(
      `The draft of ${drafted} is in ${repo.owner}/${repo.repo}, with ${commits.length} lines. A person publishes it on GitHub.`,
    );
  if (end.kind === 'ended') return say(end.text);
  const wanted = versionIn(end.reason, tag);
  const tried = (drafts as readonly ToolCall[]).map((call) => call.input.tag_name);
  if (wanted !== null && !tried.includes(wanted) && drafts.length < MAX_PROPOSALS)
    return make(`As asked, as ${wanted}.`, wanted);
  return cannotActOn(`draft release ${drafted}`, end.reason);
}

/** A version by its number or by which part goes up; null when the reason names none. */
function versionIn(reason: string | undefined, tag: string): string | null {
  const exact = /\bv?(\d+\.\d+\.\d+)\b/.exec(reason ?? '')?.[1];
  if (exact !== undefined) return `v${exact}`;
  const part = /\b(major|minor|patch)\b/i.exec(reason ?? '')?.[1]?.toLowerCase();
  return part === undefined ? null : bump(tag, part as Part);
}

function bump(tag: string, part: Part): string | null {
  const [, major, minor, patch] = /^v?(\d+)\.(\d+)\.(\d+)$/.exec(tag) ?? [];
  if (major === undefined) return null;
  if (part === 'major') return `v${Number(major) + 1}.0.0`;
  return part === 'minor' ? `v${major}.${Number(minor) + 1}.0` : `v${major}.${minor}.${Number(patch) + 1}`;
}
