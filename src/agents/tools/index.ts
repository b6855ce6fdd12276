/** The tools that ship with the product, each in a file named after its API method. */
import type { Tool } from '../../types.ts';
import { githubChecksListForRef } from './github.checks.listForRef.ts';
import { githubPullsGet } from './github.pulls.get.ts';
import { githubPullsMerge } from './github.pulls.merge.ts';
import { githubReposCompare } from './github.repos.compareCommitsWithBasehead.ts';
import type { GitHubAccess } from './github.ts';

export type { GitHubAccess } from './github.ts';

/** All GitHub tools for one access. No request is sent until one is called. */
export function toolsFor(github: GitHubAccess): Tool[] {
  return [
    githubPullsGet(github),
    githubReposCompare(github),
    githubChecksListForRef(github),
    githubPullsMerge(github),
  ];
}
