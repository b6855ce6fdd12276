/**
 * Workflows and the registry of the versions this build carries.
 *
 * Invariant: a name and version mean one function for ever; a changed function is a new version, registered beside the
 * old one until no run is on it.
 */
import type { z } from 'zod';
import { CountersignError } from '../../errors.ts';
import type { Step } from '../../types.ts';

export interface Workflow<Input = unknown> {
  /** kebab-case. */
  readonly name: string;
  /** Whole number from 1. */
  readonly version: number;
  /** Checked when a run is started and again when it is replayed. */
  readonly input: z.ZodType<Input>;
  /**
   * Restarts from the top after every wait and crash; awaits nothing but `step`. What it returns must be JSON (undefined becomes null);
   * what it throws fails the run.
   */
  readonly body: (step: Step, input: Input) => Promise<unknown>;
}

/** Types a workflow's body by its input schema. The engine checks every input against that schema before it calls the body. */
export function workflow<Input>(definition: Workflow<Input>): Workflow {
  return definition as Workflow;
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
