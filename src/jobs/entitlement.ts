/**
 * Whether a person may decide on an action: on its approval, and on what became of it.
 *
 * Invariant: the newest policy judges, over the action as it was stored, whoever asks and whenever.
 */
import type { Eligibility, PersonFacts, Policy, Queryable, ReviewRule, WorkspaceId } from '../types.ts';
import { factsOf, findAction, type StoredAction } from './actions.ts';
import { UUID } from './approvals.ts';
import type { PolicyInForce } from './definitions.ts';
import { readTask, type Task } from './tasks.ts';

export interface Entitlement {
  readonly policy: Policy;
  readonly rule: ReviewRule;
  readonly eligibility: Eligibility;
}

/** Who may decide on an action of this task, by `policy`. Pure. */
export function reviewRuleOf(policy: Policy, task: Task, action: StoredAction): ReviewRule {
  const facts = factsOf(task, action.kind, action.arguments);
  return policy.reviewRule(facts, policy.evaluate(facts));
}

/** Judges one person for one action of one task. Reads the policy only. */
export async function entitlementOf(
  db: Queryable,
  policyOf: PolicyInForce,
  task: Task,
  action: StoredAction,
  person: PersonFacts,
): Promise<Entitlement> {
  const policy = await policyOf(db, task.workspaceId);
  const rule = reviewRuleOf(policy, task, action);
  return { policy, rule, eligibility: policy.eligibility(person, rule, task.requester) };
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
  return (await entitlementOf(db, policyOf, task, action, person)).eligibility.eligible;
}
