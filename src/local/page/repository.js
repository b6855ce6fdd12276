/**
 * The local repository beside the conversation, so that an effect is seen where it happened. Read again whenever GitHub wrote something;
 * what changed meanwhile lights up for a moment.
 */
import { announce, whenFree } from './client.js';
import { element, markdown } from './mrkdwn.js';

const $ = (id) => document.getElementById(id);
const TABS = { pulls: 'Pulls', issues: 'Issues', branches: 'Branches', releases: 'Releases' };
const STALE_MS = 60_000;

const view = { tab: 'pulls', open: null, depth: null, summary: null, changed: new Set(), news: [] };
let reading = false;
let readAgain = false;

export function showRepository(isShown) {
  $('repo').hidden = !isShown;
  document.body.classList.toggle('with-repo', isShown);
  $('repo-toggle').setAttribute('aria-expanded', String(isShown));
  if (isShown) loadRepository();
}
$('repo-toggle').addEventListener('click', () => showRepository($('repo').hidden));
$('repo')
  .querySelector('.close')
  .addEventListener('click', () => {
    showRepository(false);
    $('repo-toggle').focus();
  });

export async function loadRepository() {
  if (reading) {
    readAgain = true;
    return;
  }
  reading = true;
  const answer = await read('');
  if (!answer.error) {
    noteChanges(view.summary, answer);
    view.summary = answer;
  }
  if (view.open) {
    const depth = await read(`/${view.open.tab}/${view.open.number}`);
    if (!depth.error) view.depth = depth;
  }
  whenFree(() => draw(answer.error));
  reading = false;
  if (readAgain) {
    readAgain = false;
    loadRepository();
  }
}

function read(path) {
  return fetch(`/page/repository${path}`)
    .then((response) => response.json())
    .catch(() => ({ error: 'not reachable' }));
}

/** What is different from last time: marks rows, and says it in one line each. */
function noteChanges(before, after) {
  if (!before) return;
  const note = (key, words) => {
    view.changed.add(key);
    setTimeout(() => view.changed.delete(key), 4_000);
    if (!words) return;
    view.news = [{ words, at: Date.now() }, ...view.news].slice(0, 3);
    announce(words);
  };
  const old = (list, key) => new Map(before[list].map((row) => [row[key], row]));
  const pulls = old('pulls', 'number');
  for (const pull of after.pulls) {
    const was = pulls.get(pull.number);
    const key = `pulls/${pull.number}`;
    if (!was) note(key, `Pull request #${pull.number} opened`);
    else if (was.state !== pull.state) note(key, `Pull request #${pull.number} is ${pull.state}`);
    else if (JSON.stringify(was) !== JSON.stringify(pull)) note(key, `Pull request #${pull.number} changed`);
  }
  const issues = old('issues', 'number');
  const touched = after.issues.filter((issue) => {
    const was = issues.get(issue.number);
    return !was || JSON.stringify(was) !== JSON.stringify(issue);
  });
  for (const issue of touched) {
    const was = issues.get(issue.number);
    const added = issue.labels.filter((label) => !was?.labels.some((one) => one.name === label.name));
    const words = !was
      ? `Issue #${issue.number} opened`
      : was.state !== issue.state
        ? `Issue #${issue.number} is ${issue.state}`
        : added.length > 0
          ? `Issue #${issue.number} got ${added.map((label) => label.name).join(', ')}`
          : issue.comments > was.comments
            ? `Issue #${issue.number} got a comment`
            : `Issue #${issue.number} changed`;
    note(`issues/${issue.number}`, words);
  }
  const branches = old('branches', 'name');
  for (const branch of after.branches) {
    const was = branches.get(branch.name);
    if (!was) note(`branches/${branch.name}`, `Branch ${branch.name} is new`);
    else if (was.sha !== branch.sha)
      note(`branches/${branch.name}`, `${branch.name} moved to ${short(branch.sha)}`);
  }
  const releases = old('releases', 'id');
  for (const release of after.releases)
    if (!releases.has(release.id))
      note(`releases/${release.id}`, `${release.draft ? 'Draft release' : 'Release'} ${release.name}`);
}

function draw(error) {
  const body = $('repo-body');
  if (!view.summary) {
    body.replaceChildren(element('p', 'note pad', error ?? 'Reading…'));
    return;
  }
  const focused = body.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  const scrolled = body.scrollTop;
  body.replaceChildren(tabs(), news(), view.open && view.depth ? inDepth(view.depth) : list());
  body.scrollTop = scrolled;
  if (focused) body.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function tabs() {
  const bar = element(
    'div',
    'repo-tabs',
    ...Object.entries(TABS).map(([id, label]) => {
      const count = id === 'branches' || id === 'releases' ? view.summary[id].length : openOnes(id);
      const node = element(
        'button',
        id === view.tab ? 'tab current' : 'tab',
        label,
        element('span', 'count', String(count)),
      );
      node.type = 'button';
      node.dataset.focus = `tab-${id}`;
      node.setAttribute('aria-pressed', String(id === view.tab));
      node.addEventListener('click', () => {
        Object.assign(view, { tab: id, open: null, depth: null });
        draw();
      });
      return node;
    }),
  );
  bar.setAttribute('role', 'group');
  bar.setAttribute('aria-label', 'Parts of the repository');
  return bar;
}

const openOnes = (id) => view.summary[id].filter((row) => row.state === 'open').length;

function news() {
  const fresh = view.news.filter((one) => Date.now() - one.at < STALE_MS);
  return element('div', 'news', ...fresh.map((one) => element('div', 'news-item', one.words)));
}

function list() {
  const rows = {
    pulls: () => view.summary.pulls.map(pullRow),
    issues: () => [...view.summary.issues].sort((a, b) => order(a) - order(b)).map(issueRow),
    branches: () => view.summary.branches.map(branchRow),
    releases: () => view.summary.releases.map(releaseRow),
  }[view.tab]();
  return element(
    'div',
    'rows',
    ...(rows.length > 0 ? rows : [element('p', 'note', `No ${TABS[view.tab].toLowerCase()} yet.`)]),
    ...(view.tab === 'branches' ? [log()] : []),
  );
}

const order = (issue) => (issue.state === 'open' ? 0 : 10_000) + issue.number;

function row(key, title, ...children) {
  const [tab, number] = key.split('/');
  const opens = tab === 'pulls' || tab === 'issues';
  const node = element(
    opens ? 'button' : 'div',
    `row${view.changed.has(key) ? ' changed' : ''}`,
    title,
    ...children,
  );
  node.dataset.key = key;
  if (!opens) return node;
  node.type = 'button';
  node.dataset.focus = key;
  node.addEventListener('click', () => openRow(tab, Number(number)));
  return node;
}

async function openRow(tab, number) {
  const depth = await read(`/${tab}/${number}`);
  if (depth.error) return;
  Object.assign(view, { open: { tab, number }, depth });
  draw();
  $('repo-body').scrollTop = 0;
  $('repo-body').querySelector('.back')?.focus();
}

function pullRow(pull) {
  return row(
    `pulls/${pull.number}`,
    element(
      'span',
      'row-title',
      stateMark(pull.state),
      element('b', '', pull.title),
      element('span', 'number', `#${pull.number}`),
    ),
    element(
      'small',
      '',
      element('code', '', pull.head),
      ' → ',
      element('code', '', pull.base),
      pull.merge_commit_sha ? ' · merged as ' : ' · ',
      element('code', 'sha', short(pull.merge_commit_sha ?? pull.sha)),
    ),
    labels(pull.labels),
  );
}

function issueRow(issue) {
  const talk =
    issue.comments > 0 ? ` · ${issue.comments} ${issue.comments === 1 ? 'comment' : 'comments'}` : '';
  return row(
    `issues/${issue.number}`,
    element(
      'span',
      'row-title',
      stateMark(issue.state),
      element('b', '', issue.title),
      element('span', 'number', `#${issue.number}`),
    ),
    labels(issue.labels),
    element('small', '', `opened ${ago(issue.created_at)}${talk}`),
  );
}

function branchRow(branch) {
  return row(
    `branches/${branch.name}`,
    element(
      'span',
      'row-title',
      element('code', '', branch.name),
      branch.base ? element('span', 'tag', 'DEFAULT') : null,
    ),
    element('small', '', 'at ', element('code', 'sha', short(branch.sha))),
  );
}

function releaseRow(release) {
  return row(
    `releases/${release.id}`,
    element(
      'span',
      'row-title',
      stateMark(release.draft ? 'draft' : 'released'),
      element('b', '', release.name),
    ),
    element('small', '', element('code', '', release.tag)),
    element('div', 'words', markdown(release.body)),
  );
}

function log() {
  return element(
    'div',
    'log',
    element('h3', '', 'Commits on main'),
    ...view.summary.commits.map((commit) =>
      element(
        'div',
        'commit',
        element('code', 'sha', short(commit.sha)),
        element('span', '', commit.message),
        element('small', '', ago(commit.date)),
      ),
    ),
  );
}

function inDepth(one) {
  const back = element('button', 'back', `‹ ${TABS[view.open.tab]}`);
  back.type = 'button';
  back.dataset.focus = 'back';
  back.addEventListener('click', () => {
    const key = `${view.open.tab}/${view.open.number}`;
    Object.assign(view, { open: null, depth: null });
    draw();
    $('repo-body').querySelector(`[data-focus="${key}"]`)?.focus();
  });
  const isPull = view.open.tab === 'pulls';
  return element(
    'div',
    'depth',
    back,
    element('h3', '', one.title, ' ', element('span', 'number', `#${one.number}`)),
    element('p', 'facts', stateMark(one.state), labels(one.labels), ...(isPull ? pullFacts(one) : [])),
    element('div', 'words', markdown(one.body)),
    ...(isPull ? pullParts(one) : []),
    ...one.comments.map((comment) =>
      element(
        'div',
        'comment',
        element('div', 'comment-head', element('b', '', comment.author), ` ${ago(comment.created_at)}`),
        element('div', 'words', markdown(comment.body)),
      ),
    ),
  );
}

function pullFacts(pull) {
  const merged = pull.merge_commit_sha
    ? [element('span', 'merged-as', 'merged as ', element('code', 'sha', short(pull.merge_commit_sha)))]
    : [];
  return [
    element('span', '', element('code', '', pull.head), ' → ', element('code', '', pull.base)),
    element('span', '', 'head ', element('code', 'sha', short(pull.sha))),
    ...merged,
  ];
}

function pullParts(pull) {
  return [
    ...pull.checks.map((check) =>
      element(
        'div',
        `check ${check.state}`,
        element(
          'span',
          'check-sign',
          check.state === 'success' ? '✓' : check.state === 'failure' ? '✗' : '…',
        ),
        `${check.name}: ${check.state}`,
        check.title ? element('small', '', ` ${check.title}`) : null,
      ),
    ),
    ...pull.files.map(fileDiff),
  ];
}

function fileDiff(file) {
  const lines = file.patch.split('\n').map((line) => {
    const kind = line.startsWith('@@')
      ? 'hunk'
      : line.startsWith('+')
        ? 'plus'
        : line.startsWith('-')
          ? 'minus'
          : '';
    return element('span', kind, `${line}\n`);
  });
  if (file.left > 0) lines.push(element('span', 'hunk', `… ${file.left} more characters\n`));
  const summary = element(
    'summary',
    '',
    element('code', '', file.filename),
    element('span', 'added', ` +${file.additions}`),
    element('span', 'removed', ` −${file.deletions}`),
  );
  summary.dataset.focus = `file-${file.filename}`;
  const code = element('pre', 'diff', ...lines);
  code.tabIndex = 0;
  const node = element('details', 'file-diff', summary, code);
  node.open = true;
  return node;
}

function stateMark(state) {
  return element('span', `state ${state}`, state);
}

function labels(list) {
  if (list.length === 0) return null;
  return element(
    'span',
    'labels',
    ...list.map((label) => {
      const node = element('span', 'gh-label', label.name);
      node.style.setProperty('--hue', `#${label.color}`);
      return node;
    }),
  );
}

const short = (sha) => String(sha).slice(0, 7);

function ago(date) {
  const days = Math.floor((Date.now() - Date.parse(date)) / 86_400_000);
  if (Number.isNaN(days)) return '';
  if (days < 1) {
    const minutes = Math.floor((Date.now() - Date.parse(date)) / 60_000);
    return minutes < 1
      ? 'just now'
      : minutes < 60
        ? `${minutes} min ago`
        : `${Math.floor(minutes / 60)} h ago`;
  }
  return days === 1 ? 'yesterday' : days < 60 ? `${days} days ago` : `${Math.floor(days / 30)} months ago`;
}
