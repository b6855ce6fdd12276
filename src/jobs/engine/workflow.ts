/**
 * Workflows and the registry of the versions this build carries.
 *
 * Invariant: a name and version mean one function for ever; a changed function is a new version, registered beside the
 * old one until no run is on it.
 */
import type { z } from 'zod';
import { CountersignError, type StoredError } from '../../errors.ts';
import type { Step } from '../../types.ts';

export interface Workflow<Input = unknown, Output = unknown> {
  /** kebab-case. */
  readonly name: string;
  /** Whole number from 1. */
  readonly version: number;
  /** Checked when a run is started and again when it is replayed. */
  readonly input: z.ZodType<Input>;
  /**
   * Restarts from the top after every wait and crash; awaits nothing but `step`. What it returns must be JSON (undefined becomes null);
   * what it throws fails the run. Steps still in flight when it ends are abandoned as in a crash.
   */
  body(step: Step, input: Input): Promise<Output>;
  /**
   * Runs once when the run has failed or was cancelled (`error.code` is RUN_CANCELLED), before it ends so: its steps are journaled like any
   * other, and it may wait. What it throws is logged and changes nothing. Not after a park: that run has not ended.
   */
  onFailure?(step: Step, input: Input, error: StoredError): Promise<void>;
  /**
   * Events any of which cancels the run, from its start on; one that was emitted earlier cancels it then. Computed from the input alone.
   */
  cancelOn?(input: Input): readonly { readonly event: string; readonly key: string }[];
}

/** Types a workflow's body by its input schema. The engine checks every input against that schema before it calls the body. */
export function workflow<Input, Output>(definition: Workflow<Input, Output>): Workflow<Input, Output> {
  return definition;
}

export interface Registry {
  /** Undefined when this build does not carry that version. */
  find(name: string, version: number): Workflow | undefined;
  readonly versions: readonly { readonly name: string; readonly version: number }[];
}

const NAME = /^[a-z][a-z0-9-]{0,63}$/;

/** Throws CONFIG_INVALID for a malformed or doubled name and version. */
export function createRegistry(workflows: readonly Workflow[]): Registry {
  const known = new Map<string, Workflow>();
  for (const entry of workflows) {
    const id = `${entry.name}@${entry.version}`;
    if (!NAME.test(entry.name) || !Number.isInteger(entry.version) || entry.version < 1)
      throw new CountersignError(
        'CONFIG_INVALID',
        `Workflow ${id}: kebab-case name and version from 1 are needed`,
      );
    if (known.has(id)) throw new CountersignError('CONFIG_INVALID', `Workflow ${id} is registered twice`);
    known.set(id, entry);
  }
  return {
    find: (name, version) => known.get(`${name}@${version}`),
    versions: [...known.values()].map(({ name, version }) => ({ name, version })),
  };
}

/** A workflow of the registry and an input that fits it, or why not. */
export interface CheckedStart {
  readonly workflow: Workflow;
  readonly cancelOn: readonly { readonly event: string; readonly key: string }[];
}

/** Throws WORKFLOW_UNKNOWN, or WORKFLOW_INPUT_INVALID naming the field. */
export function checkStart(registry: Registry, name: string, version: number, input: unknown): CheckedStart {
  const found = registry.find(name, version);
  if (!found) throw new CountersignError('WORKFLOW_UNKNOWN', `No workflow ${name}@${version}`);
  const parsed = found.input.safeParse(input);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new CountersignError(
      'WORKFLOW_INPUT_INVALID',
      `${name}@${version}: ${issue?.path.join('.') || 'input'}: ${issue?.message}`,
    );
  }
  return { workflow: found, cancelOn: found.cancelOn?.(parsed.data) ?? [] };
}
