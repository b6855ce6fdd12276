/**
 * Whether a person may decide on an action: on its approval, and on what became of it.
 *
 * Invariant: the newest policy judges, over the action as it was stored, whoever asks and whenever. Of a request also the rule that was
 * frozen with it: a newer policy takes the right to decide away, and hands it out for what is asked after it.
 */
import type {
  Eligibility,
  Person,
  PersonFacts,
  Policy,
  Queryable,
  ReviewRule,
  WorkspaceId,
} from '../types.ts';
import { factsOf, findAction, type StoredAction } from './actions.ts';
import { readRequestOf, UUID } from './approvals.ts';
import type { PolicyInForce } from './definitions.ts';
import { readTask, type Task } from './tasks.ts';

export interface Entitlement {
  readonly policy: Policy;
  /** Of the newest policy. */
  readonly rule: ReviewRule;
  /** Who may, for whoever may not. */
  readonly reviewers: readonly Person[];
  readonly eligibility: Eligibility;
}

/** Who may decide on an action of this task, by `policy`. Pure. */
export function reviewRuleOf(policy: Policy, task: Task, action: StoredAction): ReviewRule {
  const facts = factsOf(task, action.kind, action.arguments);
  return policy.reviewRule(facts, policy.evaluate(facts));
}

/** Judges one person for one action of one task. `frozen`: with the request, null for what no request asks. Reads the policy only. */
export async function entitlementOf(
  db: Queryable,
  policyOf: PolicyInForce,
  task: Task,
  action: StoredAction,
  frozen: ReviewRule | null,
  person: PersonFacts,
): Promise<Entitlement> {
  const policy = await policyOf(db, task.workspaceId);
  const rule = reviewRuleOf(policy, task, action);
  const reviewers = rule.reviewers.filter(
    (one) =>
      frozen === null ||
      frozen.reviewers.some(({ teamId, userId }) => teamId === one.teamId && userId === one.userId),
  );
  return { policy, rule, reviewers, eligibility: policy.eligibility(person, frozen ?? rule, task.requester) };
}

/**
 * True when this person may decide on this action now; false too when there is none such in this workspace. For what is only shown:
 * who decides asks again in the transaction that decides.
 */
export async function mayDecide(
  db: Queryable,
  policyOf: PolicyInForce,
  workspaceId: WorkspaceId,
  actionId: string,
  person: PersonFacts,
): Promise<boolean> {
  const action = UUID.test(actionId) ? await findAction(db, workspaceId, actionId) : null;
  const task = action && (await readTask(db, workspaceId, action.taskId));
  if (action === null || task === null) return false;
  const request = action.status === 'awaiting' ? await readRequestOf(db, workspaceId, actionId) : null;
  const { eligibility } = await entitlementOf(db, policyOf, task, action, request?.rule ?? null, person);
  return eligibility.eligible;
}
