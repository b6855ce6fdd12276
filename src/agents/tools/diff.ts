/** A line diff of two texts, for reviewers. Pure; what it shows, applied to the old text, gives the new one. */

/** Lines kept around a change. */
const CONTEXT = 3;
/** Above this many pairs of lines the middle is shown as wholly replaced: right, only longer. */
const MAX_PAIRS = 4_000_000;

interface Line {
  readonly mark: ' ' | '-' | '+';
  readonly text: string;
}

/** Unified hunks of the change; empty when nothing changes. `old` null means that the file is new. */
export function lineDiff(old: string | null, now: string): { text: string; added: number; removed: number } {
  const lines = compare(old === null ? [] : linesOf(old), linesOf(now));
  const added = lines.filter(({ mark }) => mark === '+').length;
  const removed = lines.filter(({ mark }) => mark === '-').length;
  return { text: hunks(lines), added, removed };
}

/** A line keeps its end; one without says so, as Git does, so that a lost last line break is seen. */
function linesOf(text: string): string[] {
  const lines = text.split('\n');
  if (lines.at(-1) === '') lines.pop();
  else lines.push(`${lines.pop() ?? ''}\n\\ No newline at end of file`);
  return lines;
}

function compare(old: readonly string[], now: readonly string[]): Line[] {
  let start = 0;
  while (start < old.length && start < now.length && old[start] === now[start]) start += 1;
  let end = 0;
  while (
    end < old.length - start &&
    end < now.length - start &&
    old[old.length - 1 - end] === now[now.length - 1 - end]
  )
    end += 1;
  const same = (text: string): Line => ({ mark: ' ', text });
  return [
    ...old.slice(0, start).map(same),
    ...middle(old.slice(start, old.length - end), now.slice(start, now.length - end)),
    ...old.slice(old.length - end).map(same),
  ];
}

/** Longest common subsequence of what differs. */
function middle(old: readonly string[], now: readonly string[]): Line[] {
  const removed = (text: string): Line => ({ mark: '-', text });
  const added = (text: string): Line => ({ mark: '+', text });
  if (old.length * now.length > MAX_PAIRS) return [...old.map(removed), ...now.map(added)];

  const width = now.length + 1;
  const longest = new Uint32Array((old.length + 1) * width);
  const at = (i: number, j: number) => longest[i * width + j] ?? 0;
  for (let i = old.length - 1; i >= 0; i -= 1)
    for (let j = now.length - 1; j >= 0; j -= 1)
      longest[i * width + j] =
        old[i] === now[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
  const lines: Line[] = [];
  let [i, j] = [0, 0];
  while (i < old.length || j < now.length) {
    const [before, after] = [old[i], now[j]];
    if (before !== undefined && before === after) {
      lines.push({ mark: ' ', text: before });
      i += 1;
      j += 1;
    } else if (before !== undefined && (after === undefined || at(i + 1, j) >= at(i, j + 1))) {
      lines.push(removed(before));
      i += 1;
    } else {
      lines.push(added(after ?? ''));
      j += 1;
    }
  }
  return lines;
}

function hunks(lines: readonly Line[]): string {
  const shown = new Set<number>();
  for (const [index, { mark }] of lines.entries())
    if (mark !== ' ') for (let near = index - CONTEXT; near <= index + CONTEXT; near += 1) shown.add(near);
  const text: string[] = [];
  let [oldLine, newLine] = [1, 1];
  for (const [index, { mark, text: line }] of lines.entries()) {
    if (shown.has(index)) {
      if (!shown.has(index - 1) || index === 0) text.push(`@@ -${oldLine} +${newLine} @@`);
      text.push(`${mark}${line}`);
    }
    if (mark !== '+') oldLine += 1;
    if (mark !== '-') newLine += 1;
  }
  return text.join('\n');
}
