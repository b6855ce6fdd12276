/** Reads blocks as Slack would: every limit broken, every text, every button; and as a person would, in lines. */
import { LIMITS } from '../../src/bot/text.ts';

export interface TextObject {
  readonly type: 'plain_text' | 'mrkdwn';
  readonly text: string;
}

function* objects(value: unknown): Generator<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null) return;
  if (!Array.isArray(value)) yield value as Record<string, unknown>;
  for (const member of Object.values(value)) yield* objects(member);
}

export function texts(blocks: unknown): TextObject[] {
  return [...objects(blocks)].filter(
    (object) => object.type === 'plain_text' || object.type === 'mrkdwn',
  ) as unknown as TextObject[];
}

export function buttonIds(blocks: unknown): string[] {
  return [...objects(blocks)]
    .filter((object) => object.type === 'button')
    .map((object) => String(object.action_id));
}

/** What Slack would refuse about these blocks. */
export function broken(blocks: readonly object[], surface: 'message' | 'modal'): string[] {
  const problems: string[] = [];
  const check = (isGood: boolean, what: string): void => {
    if (!isGood) problems.push(what);
  };
  check(blocks.length > 0, 'no blocks');
  check(
    blocks.length <= (surface === 'message' ? LIMITS.messageBlocks : LIMITS.modalBlocks),
    'too many blocks',
  );
  const serialized = JSON.stringify(blocks);
  check(
    surface === 'message'
      ? serialized.length <= LIMITS.messageBlocksJson
      : Buffer.byteLength(serialized) <= LIMITS.viewBytes,
    `blocks of ${serialized.length} in all`,
  );
  check(serialized.isWellFormed(), 'a lone surrogate');
  for (const object of objects(blocks)) {
    const length = (key: string): number => {
      const member = object[key] as TextObject | undefined;
      return member?.text.length ?? 0;
    };
    switch (object.type) {
      case 'header':
        check(length('text') >= 1 && length('text') <= LIMITS.headerText, `header of ${length('text')}`);
        break;
      case 'section':
        check(length('text') <= LIMITS.sectionText, `section of ${length('text')}`);
        check(object.text !== undefined || object.fields !== undefined, 'section without text');
        for (const field of (object.fields ?? []) as TextObject[])
          check(field.text.length <= LIMITS.fieldText, `field of ${field.text.length}`);
        check(((object.fields ?? []) as unknown[]).length <= LIMITS.sectionFields, 'too many fields');
        break;
      case 'context':
        check((object.elements as unknown[]).length <= LIMITS.contextElements, 'too many context elements');
        for (const element of object.elements as TextObject[])
          check(element.text.length <= LIMITS.contextText, `context of ${element.text.length}`);
        break;
      case 'actions':
        check((object.elements as unknown[]).length <= LIMITS.actionsElements, 'too many buttons');
        check((object.elements as unknown[]).length > 0, 'no buttons');
        break;
      case 'button':
        check(length('text') <= LIMITS.buttonText, 'button text');
        check(String(object.value).length <= LIMITS.buttonValue, 'button value');
        check(String(object.action_id).length <= LIMITS.actionId, 'action id');
        break;
      case 'plain_text':
      case 'mrkdwn':
        check(String(object.text).length > 0, 'empty text');
        break;
    }
  }
  return problems;
}

/** The blocks as lines, so that a change of a golden file can be read. */
export function asText(blocks: readonly object[]): string {
  const lines: string[] = [];
  for (const block of blocks as Record<string, unknown>[]) {
    if (block.type === 'actions') {
      const labels = (block.elements as { text: TextObject; style?: string }[]).map(
        ({ text, style }) => `[ ${text.text}${style === undefined ? '' : ` (${style})`} ]`,
      );
      lines.push(labels.join(' '));
    } else {
      const mark = block.type === 'header' ? '# ' : block.type === 'context' ? '  ' : '';
      lines.push(...texts(block).map(({ text }) => `${mark}${text}`));
    }
  }
  return `${lines.join('\n')}\n`;
}
