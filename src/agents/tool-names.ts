/**
 * The one place where an action kind becomes the name a model calls a tool by, because providers allow no dots.
 */

/** `github.pulls.merge` → `github_pulls_merge`. A kind holds no underscore, so the mapping loses nothing. */
export function modelToolName(kind: string): string {
  return kind.replaceAll('.', '_');
}
