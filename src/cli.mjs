#!/usr/bin/env node
/**
 * The `countersign` command's first lines. Plain JavaScript, because an older Node.js cannot load the TypeScript behind it and would answer
 * with a stack trace instead of the one clear line below. Everything else is in commands.ts.
 */
import module from 'node:module';
import path from 'node:path';
import v8 from 'node:v8';

const version = process.versions.node;
if (Number.parseInt(version, 10) < 26) {
  process.stderr.write(
    `countersign: Node.js 26 is needed, this is ${version}. Use \`npm start\` or \`npx countersign …\`, which run the Node.js installed with the product.\n`,
  );
  process.exit(1);
}
// A process that mostly waits for people should not keep the room of its last burst of work: V8 grows the space of young objects and
// does not give it back (60 MB after eighteen tasks).
v8.setFlagsFromString('--semi-space-growth-factor=1');
// Compiled code is kept between starts; beside the packages and not in the shared temporary folder, where others could write it.
module.enableCompileCache(path.join(import.meta.dirname, '../node_modules/.cache/node'));
const { run } = await import('./commands.ts');
await run(process.argv);
