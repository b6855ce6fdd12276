/**
 * The person's top modal as a dialog: the browser traps the focus and closes on Escape. What was typed survives every redraw; errors of
 * a submission stand at their fields, and the first of them gets the focus.
 */
import { renderBlocks, textNode } from './blocks.js';
import { act, allNames, draw, state, toast, ui } from './client.js';
import { click } from './messages.js';
import { element } from './mrkdwn.js';

const dialog = document.getElementById('modal');
/** What has been typed into the open modal, by view and action id. */
const typed = { viewId: '', values: {}, errors: {}, submitting: false };

export function viewContext(view) {
  return {
    names: allNames(),
    key: view.id,
    values: view.state.values,
    errors: view.type === 'modal' ? typed.errors : {},
    isBusy: (blockId, actionId) => ui.busy.has(`${view.id}/${blockId}/${actionId}`),
    choose: (_blockId, actionId, value) => {
      if (view.type === 'modal' && value !== undefined) typed.values[actionId] = value;
    },
    act: (press) => click(press, { viewId: view.id }, view.id),
  };
}

export function drawModal() {
  const view = state.views.at(-1);
  if (!view) {
    if (dialog.open) dialog.close();
    dialog.dataset.signature = '';
    typed.viewId = '';
    return;
  }
  if (typed.viewId !== view.id)
    Object.assign(typed, { viewId: view.id, values: {}, errors: {}, submitting: false });
  const busy = [...ui.busy].filter((key) => key.startsWith(`${view.id}/`));
  const signature = JSON.stringify([view.id, view.hash, typed.errors, typed.submitting, busy]);
  if (dialog.dataset.signature !== signature) {
    const turned = dialog.dataset.hash !== `${view.id}/${view.hash}`;
    dialog.dataset.signature = signature;
    dialog.dataset.hash = `${view.id}/${view.hash}`;
    buildModal(view, turned);
  }
  if (!dialog.open) dialog.showModal();
}

function buildModal(view, turned) {
  const kept = { ...typed.values };
  const focused = dialog.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
  const scrolled = dialog.querySelector('.modal-body')?.scrollTop ?? 0;
  const title = element('h2', '', textNode(view.title, {}));
  title.id = 'modal-title';
  const cross = element('button', 'icon close', '✕');
  cross.type = 'button';
  cross.setAttribute('aria-label', 'Close window');
  cross.addEventListener('click', () => closeView(view));
  const close = element('button', 'b-button', view.close ? textNode(view.close, {}) : 'Close');
  close.type = 'button';
  close.dataset.focus = 'close';
  close.addEventListener('click', () => closeView(view));
  const submit = view.submit ? element('button', 'b-button primary', textNode(view.submit, {})) : null;
  if (submit) {
    submit.dataset.focus = 'submit';
    submit.disabled = typed.submitting;
    submit.classList.toggle('busy', typed.submitting);
  }
  const body = element(
    'div',
    'modal-body',
    renderBlocks(view.blocks, { ...viewContext(view), values: withTyped(view, kept) }),
  );
  body.tabIndex = 0;
  const form = element(
    'form',
    '',
    element('div', 'modal-head', title, cross),
    body,
    element('div', 'modal-actions', close, submit),
  );
  form.noValidate = true;
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    submitView(view);
  });
  dialog.replaceChildren(form);
  if (!turned) body.scrollTop = scrolled;
  const invalid = dialog.querySelector('[aria-invalid="true"]');
  const same = focused && dialog.querySelector(`[data-focus="${CSS.escape(focused)}"]`);
  const first = dialog.querySelector('.b-field');
  if (dialog.open) (invalid ?? same ?? first ?? body).focus();
  else (first ?? body).autofocus = true;
}

/** The view's stored state, overlaid with text typed since. */
function withTyped(view, kept) {
  const values = structuredClone(view.state.values);
  for (const block of Object.values(values)) {
    for (const [actionId, one] of Object.entries(block)) {
      if (typeof kept[actionId] === 'string' && 'value' in one) one.value = kept[actionId];
    }
  }
  return values;
}

async function submitView(view) {
  if (typed.submitting) return;
  typed.submitting = true;
  draw();
  const result = await act({ kind: 'submit', viewId: view.id, values: typed.values });
  typed.submitting = false;
  typed.errors = result.fieldErrors ?? {};
  if (result.error && !result.fieldErrors) toast(result.error);
  draw();
}

async function closeView(view) {
  typed.errors = {};
  const result = await act({ kind: 'close', viewId: view.id });
  if (result.error) toast(result.error);
}

dialog.addEventListener('cancel', (event) => {
  event.preventDefault();
  const view = state?.views.at(-1);
  if (view) closeView(view);
});
