/**
 * The first thing that runs, in syntax every Node.js that can load a .ts file understands: a clear line instead of a stack trace from a
 * dependency.
 */
export function assertNodeVersion(version: string = process.versions.node): void {
  if (Number.parseInt(version, 10) >= 26) return;
  process.stderr.write(
    `countersign: Node.js 26 is needed, this is ${version}. Use \`npm start\` or \`npx countersign …\`, which run the Node.js installed with the product.\n`,
  );
  process.exit(1);
}
