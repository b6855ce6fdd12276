/** A model seam that says what a test wrote down, turn by turn, and keeps what it was asked. No network. */
import type { ModelBlock, ToolUseBlock } from '../../src/agents/conversation.ts';
import type { ModelSeam, ModelTurn, TurnRequest } from '../../src/agents/model.ts';
import type { Json } from '../../src/types.ts';

export interface Turn {
  readonly content: readonly ModelBlock[];
  readonly stopReason: string;
  readonly tokens?: number;
  readonly costUsd?: number;
  /** Thrown instead of answering. */
  readonly error?: Error;
}

/** A turn that says `text` (unless empty) and makes `calls`. */
export function says(text: string, ...calls: readonly ToolUseBlock[]): Turn {
  const words: ModelBlock[] = text === '' ? [] : [{ type: 'text', text }];
  return { content: [...words, ...calls], stopReason: calls.length > 0 ? 'tool_use' : 'end_turn' };
}

export function call(id: string, name: string, input: Json): ToolUseBlock {
  return { type: 'tool_use', id, name, input };
}

/** Plays `turns` in order and fails when there are no more. Each costs 15 tokens unless it says otherwise. */
export function scriptedModel(
  turns: readonly Turn[],
  onTurn: () => void = () => {},
): ModelSeam & { readonly seen: readonly Omit<TurnRequest, 'signal'>[] } {
  const seen: Omit<TurnRequest, 'signal'>[] = [];
  return {
    model: 'scripted',
    label: 'scripted model',
    seen,
    async turn({ signal: _signal, ...request }): Promise<ModelTurn> {
      onTurn();
      const turn = turns[seen.length];
      seen.push(structuredClone(request));
      if (turn === undefined) throw new Error('The script has no further turn.');
      if (turn.error !== undefined) throw turn.error;
      return {
        content: turn.content,
        stopReason: turn.stopReason,
        usage: { input: (turn.tokens ?? 15) - 5, output: 5, cacheCreation: 0, cacheRead: 0 },
        model: 'scripted',
        label: 'scripted model',
        costUsd: turn.costUsd ?? 0,
        currency: 'USD',
        priceTableDate: '2026-01-01',
      };
    },
  };
}
