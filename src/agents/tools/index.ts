/** The tools that ship with the product, each in a file named after its API method. */
import type { Tool } from '../../types.ts';
import { githubChecksListForRef } from './github.checks.listForRef.ts';
import { githubGitCreateCommit } from './github.git.createCommit.ts';
import { githubIssuesAddLabels } from './github.issues.addLabels.ts';
import { githubIssuesCreateComment } from './github.issues.createComment.ts';
import { githubIssuesGet } from './github.issues.get.ts';
import { githubIssuesListComments } from './github.issues.listComments.ts';
import { githubIssuesListForRepo } from './github.issues.listForRepo.ts';
import { githubIssuesUpdate } from './github.issues.update.ts';
import { githubPullsCreate } from './github.pulls.create.ts';
import { githubPullsGet } from './github.pulls.get.ts';
import { githubPullsList } from './github.pulls.list.ts';
import { githubPullsMerge } from './github.pulls.merge.ts';
import { githubReposCompare } from './github.repos.compareCommitsWithBasehead.ts';
import { githubReposCreateRelease } from './github.repos.createRelease.ts';
import { githubReposGetContent } from './github.repos.getContent.ts';
import { githubReposListCommits } from './github.repos.listCommits.ts';
import { githubReposListReleases } from './github.repos.listReleases.ts';
import type { GitHubAccess } from './github.ts';

export type { GitHubAccess } from './github.ts';

/** All GitHub tools for one access. No request is sent until one is called. */
export function toolsFor(github: GitHubAccess): Tool[] {
  return [
    githubPullsGet(github),
    githubReposCompare(github),
    githubChecksListForRef(github),
    githubPullsList(github),
    githubIssuesListForRepo(github),
    githubIssuesGet(github),
    githubIssuesListComments(github),
    githubReposGetContent(github),
    githubReposListCommits(github),
    githubReposListReleases(github),
    githubPullsMerge(github),
    githubIssuesAddLabels(github),
    githubIssuesCreateComment(github),
    githubIssuesUpdate(github),
    githubGitCreateCommit(github),
    githubPullsCreate(github),
    githubReposCreateRelease(github),
  ];
}
