/** Small phrases that several cards share: who, how long, which agent. Pure; outside parts are escaped here. */
import type { ApprovalView } from '../../views.ts';
import { cut, dateToken, mention, oneLine } from '../text.ts';

/** `engineer v3 (scripted model)`, for plain_text. The label of the model is said wherever it speaks. */
export function agentLabel(agent: ApprovalView['agent']): string {
  // Ours goes before what was looked at: a word that begins inside another is not taken for a credential.
  const version = oneLine(agent.version);
  return `${short(agent.name, 60)} ${short(/^v/i.test(version) ? version : `v${version}`, 30)} (${short(agent.modelLabel, 60)})`;
}

/** A name or a version on one line of plain_text, cut at `max` with an ellipsis. */
export function short(text: string, max: number): string {
  const piece = cut(oneLine(text), max);
  return `${piece.text}${piece.complete ? '' : '…'}`;
}

/** Who made this decision and when, for mrkdwn; each person once. */
export function decidedBy(
  view: ApprovalView,
  decision: ApprovalView['decisions'][number]['decision'],
): string {
  const made = view.decisions.filter((one) => one.decision === decision);
  if (made.length === 0) return 'nobody on record';
  const named = made.slice(0, 10).map((one) => `${mention(one.person)} ${dateToken(one.decidedAt)}`);
  return `${named.join(', ')}${made.length > 10 ? ` and ${made.length - 10} more` : ''}`;
}

/** ` · 2.4 h` + `after`, or nothing when either end is missing. */
export function took(fromIso: string, toIso: string | null, after = ''): string {
  const ms = toIso === null ? Number.NaN : Date.parse(toIso) - Date.parse(fromIso);
  return Number.isNaN(ms) || ms < 0 ? '' : ` · ${duration(ms)}${after}`;
}

/** `38 min`, one unit, rounded. */
export function duration(ms: number): string {
  if (ms < 60_000) return `${Math.max(1, Math.round(ms / 1_000))} s`;
  if (ms < 3_600_000) return `${Math.round(ms / 60_000)} min`;
  if (ms < 172_800_000) return `${(ms / 3_600_000).toFixed(1)} h`;
  return `${Math.round(ms / 86_400_000)} days`;
}
