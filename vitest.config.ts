import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** A fresh clone has no durations of earlier runs. Fault tests wait longest: begun last, they would end alone. */
class FaultsFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files);
    const isFault = ({ moduleId }: TestSpecification) => moduleId.includes('/tests/faults/');
    return [...sorted.filter(isFault), ...sorted.filter((file) => !isFault(file))];
  }
}

export default defineConfig({
  test: {
    include: ['tests/{unit,integration,faults,browser,e2e}/**/*.test.ts'],
    globalSetup: ['tests/support/global-setup.ts'],
    // Patience only, for a shared machine that hardly runs for a minute; a test that is about promptness has its own bound.
    testTimeout: 180_000,
    hookTimeout: 180_000,
    sequence: { sequencer: FaultsFirst },
    // Each file has a database of its own. Two cores carry three files at a time: many a file waits for a lease or a pause to end.
    maxWorkers: 3,
    // Each process keeps what it has loaded: a fifth of all work was loading. What a file replaces (spies, variables) it puts back itself.
    isolate: false,
  },
});
