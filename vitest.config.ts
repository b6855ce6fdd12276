import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['tests/{unit,integration,faults,browser,e2e}/**/*.test.ts'],
    globalSetup: ['tests/support/global-setup.ts'],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // Each file has a database of its own. Two cores carry three files at a time: many a file waits for a lease or a pause to end.
    maxWorkers: 3,
  },
});
