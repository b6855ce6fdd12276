/**
 * Definitions in force: which policy a workspace judges by, which agents it knows. Owns `workspaces`, `deployments`,
 * `policy_versions`, `policy_activations`, `agent_versions`.
 *
 * Invariants. Versions are immutable and every activation says who and why. Authority is always the newest activation, read at
 * the moment it matters. No policy means that nothing is judged: fail closed.
 */
import { randomUUIDv7 } from 'node:crypto';
import { CountersignError } from '../errors.ts';
import type { Json, JsonObject, Policy, Queryable, Tx, WorkspaceId } from '../types.ts';
import { appendEntry } from './ledger.ts';

/** Builds the judging half from stored content. Throws CONFIG_INVALID. */
export type BuildPolicy = (content: Json) => Policy;

/** The newest policy of a workspace. Throws CONFIG_INVALID when none is active or it cannot be built: nothing is judged then. */
export type PolicyInForce = (db: Queryable, workspaceId: WorkspaceId) => Promise<Policy>;

export function policyInForce(build: BuildPolicy): PolicyInForce {
  const built = new Map<string, Policy>();
  return async (db, workspaceId) => {
    const { rows } = await db.query<{ policy_version: string; content: Json }>({
      name: 'policy_active',
      text: `select v.policy_version, v.content from policy_activations a
             join policy_versions v on v.workspace_id = a.workspace_id and v.policy_version = a.policy_version
             where a.workspace_id = $1 order by a.activation_no desc limit 1`,
      values: [workspaceId],
    });
    const row = rows[0];
    if (row === undefined)
      throw new CountersignError('CONFIG_INVALID', `Workspace ${workspaceId} has no active policy`);
    const key = `${workspaceId} ${row.policy_version}`;
    const policy = built.get(key) ?? build(row.content);
    if (policy.version !== row.policy_version)
      throw new CountersignError(
        'CONFIG_INVALID',
        `The active policy ${row.policy_version} was written for another release; activate it again with: countersign policy apply --reason "…"`,
      );
    built.set(key, policy);
    return policy;
  };
}

/** The version in force, without building it; null when there is none. */
export async function activePolicyVersion(db: Queryable, workspaceId: WorkspaceId): Promise<string | null> {
  const { rows } = await db.query<{ policy_version: string }>({
    text: 'select policy_version from policy_activations where workspace_id = $1 order by activation_no desc limit 1',
    values: [workspaceId],
  });
  return rows[0]?.policy_version ?? null;
}

/** Activates a policy unless it is the active one already; then false. In the caller's transaction. */
export async function activatePolicy(
  tx: Tx,
  workspaceId: WorkspaceId,
  policy: { readonly version: string; readonly content: Json },
  by: string,
  reason: string,
): Promise<boolean> {
  // One activation at a time per workspace, so that numbers have no gap.
  await tx.query({
    text: 'select 1 from workspaces where workspace_id = $1 for update',
    values: [workspaceId],
  });
  if ((await activePolicyVersion(tx, workspaceId)) === policy.version) return false;
  await tx.query({
    text: `insert into policy_versions (workspace_id, policy_version, content) values ($1, $2, $3) on conflict do nothing`,
    values: [workspaceId, policy.version, JSON.stringify(policy.content)],
  });
  await tx.query({
    text: `insert into policy_activations (workspace_id, activation_no, policy_version, activated_by, reason)
           select $1, coalesce(max(activation_no), 0) + 1, $2, $3, $4 from policy_activations where workspace_id = $1`,
    values: [workspaceId, policy.version, by, reason],
  });
  await appendEntry(tx, {
    workspaceId,
    subjectKind: 'policy',
    subjectId: 'active',
    kind: 'policy.activated',
    facts: { policyVersion: policy.version, by },
    words: { reason },
  });
  return true;
}

/** Stores an agent version once. A different content under a stored version is refused: CONFIG_INVALID. */
export async function registerAgent(
  tx: Tx,
  workspaceId: WorkspaceId,
  agent: {
    readonly name: string;
    readonly version: string;
    readonly owner: string;
    readonly content: JsonObject;
  },
): Promise<void> {
  const content = JSON.stringify(agent.content);
  const { rowCount } = await tx.query({
    text: `insert into agent_versions (workspace_id, agent_name, agent_version, owner, content) values ($1, $2, $3, $4, $5)
           on conflict do nothing`,
    values: [workspaceId, agent.name, agent.version, agent.owner, content],
  });
  if (rowCount === 1) {
    await appendEntry(tx, {
      workspaceId,
      subjectKind: 'agent',
      subjectId: agent.name,
      kind: 'agent.registered',
      facts: { version: agent.version, owner: agent.owner },
    });
    return;
  }
  const { rows } = await tx.query<{ same: boolean }>({
    text: `select content::text = $4 as same from agent_versions where workspace_id = $1 and agent_name = $2 and agent_version = $3`,
    values: [workspaceId, agent.name, agent.version, content],
  });
  if (!rows[0]?.same)
    throw new CountersignError(
      'CONFIG_INVALID',
      `Agent ${agent.name} v${agent.version} differs from the stored one; give a changed agent a new version`,
    );
}

/** The workspace this database belongs to; null before the first start. */
export async function onlyWorkspace(db: Queryable): Promise<WorkspaceId | null> {
  const { rows } = await db.query<{ workspace_id: string }>({
    text: 'select workspace_id from workspaces limit 1',
  });
  return rows[0]?.workspace_id ?? null;
}

/**
 * Makes the workspace's row, or brings what is known of it up to date. Repeatable. Throws CONFIG_INVALID when the database belongs to
 * another workspace: its rows would be worked with the wrong credentials.
 */
export async function ensureWorkspace(
  db: Queryable,
  workspace: {
    readonly workspaceId: WorkspaceId;
    readonly enterpriseId: string | null;
    readonly botUserId: string;
  },
): Promise<void> {
  const owner = await onlyWorkspace(db);
  if (owner !== null && owner !== workspace.workspaceId)
    throw new CountersignError(
      'CONFIG_INVALID',
      `The database belongs to Slack workspace ${owner}, the token to ${workspace.workspaceId}; use one database per workspace`,
    );
  await db.query({
    text: `insert into workspaces (workspace_id, enterprise_id, bot_user_id) values ($1, $2, $3)
           on conflict (workspace_id) do update set enterprise_id = excluded.enterprise_id, bot_user_id = excluded.bot_user_id`,
    values: [workspace.workspaceId, workspace.enterpriseId, workspace.botUserId],
  });
}

/** This deployment's id: made once per database, the same for every process on it. */
export async function deploymentId(db: Queryable): Promise<string> {
  await db.query({
    text: 'insert into deployments (deployment_id) values ($1) on conflict do nothing',
    values: [randomUUIDv7()],
  });
  const { rows } = await db.query<{ deployment_id: string }>({
    text: 'select deployment_id from deployments',
  });
  if (!rows[0]) throw new Error('the deployment row is missing');
  return rows[0].deployment_id;
}
