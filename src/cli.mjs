#!/usr/bin/env node
/**
 * The `countersign` command's first lines. Plain JavaScript, because an older Node.js cannot load the TypeScript behind it and would answer
 * with a stack trace instead of the one clear line below. Everything else is in commands.ts.
 */
import module from 'node:module';
import path from 'node:path';

const version = process.versions.node;
if (Number.parseInt(version, 10) < 26) {
  process.stderr.write(
    `countersign: Node.js 26 is needed, this is ${version}. Use \`npm start\` or \`npx countersign …\`, which run the Node.js installed with the product.\n`,
  );
  process.exit(1);
}
// Compiled code is kept between starts; beside the packages and not in the shared temporary folder, where others could write it.
module.enableCompileCache(path.join(import.meta.dirname, '../node_modules/.cache/node'));
const { run } = await import('./commands.ts');
await run(process.argv);
