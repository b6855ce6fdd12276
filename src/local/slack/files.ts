/**
 * Files: the external upload (ask for an address, send the bytes there, complete), and what can be asked about one
 * afterwards. Bytes lie in the state folder under the file's id, never under a name that somebody chose.
 *
 * Invariant: a file is shown nowhere before its bytes came and its upload was completed, and completed once.
 */
import { createReadStream, existsSync, rmSync, writeFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { join } from 'node:path';
import type { Args } from './args.ts';
import { authored, type Method, outgoingBlocks, writableChannel } from './chat-methods.ts';
import { postMessage, type SlackContext, SlackRefusal } from './messages.ts';
import { BOT_USER_ID } from './seed.ts';
import { type Json, records, type StoredFile } from './types.ts';

/** The file stays small on purpose: a local world is no file server. */
const FILE_MAX_BYTES = 10_000_000;

export const fileMethods: Record<string, Method> = {
  'files.getUploadURLExternal': (context, args) => {
    const { store } = context;
    const length = Number(args.required('length'));
    if (!Number.isInteger(length) || length <= 0 || length > FILE_MAX_BYTES)
      throw new SlackRefusal('file_upload_size_restricted');
    const file: StoredFile = {
      id: store.nextId('F'),
      name: args.required('filename'),
      length,
      uploaded: false,
      completed: false,
    };
    store.data.files.push(file);
    store.touch();
    return { upload_url: `${context.baseUrl()}/upload/${file.id}`, file_id: file.id };
  },

  'files.completeUploadExternal': (context, args) => {
    const given = records(args.json('files', 'invalid_arguments'));
    if (given.length === 0) throw new SlackRefusal('invalid_arguments');
    const files = given.map((item) => {
      const file = context.store.data.files.find((candidate) => candidate.id === item.id);
      if (!file?.uploaded || file.completed) throw new SlackRefusal('file_not_found');
      return { file, title: String(item.title ?? file.name) };
    });
    const named = (args.string('channels') ?? '').split(',').filter((id) => id !== '');
    const threadTs = args.string('thread_ts');
    if (threadTs && named.length > 1) throw new SlackRefusal('invalid_arguments');
    const channels = [args.string('channel_id') ?? '', ...named]
      .filter((id) => id !== '')
      .map((id) => writableChannel(context, id));
    const comment = args.string('initial_comment');
    const blocks = comment === undefined ? outgoingBlocks(args) : undefined;
    for (const { file, title } of files) {
      file.completed = true;
      file.title = title;
    }
    const described = files.map(({ file }) => fileJson(context, file));
    context.store.touch();
    for (const channel of channels)
      postMessage(context, {
        ...authored(channel.id),
        text: comment ?? '',
        files: described,
        ...(blocks === undefined ? {} : { blocks }),
        ...(threadTs ? { threadTs } : {}),
      });
    return { files: described };
  },

  'files.info': (context, args) => ({ file: fileJson(context, completedFile(context, args)) }),

  'files.delete': (context, args) => {
    const { store } = context;
    const file = completedFile(context, args);
    store.data.files = store.data.files.filter((candidate) => candidate !== file);
    for (const message of store.data.messages)
      if (message.files) message.files = message.files.filter(({ id }) => id !== file.id);
    store.touch();
    rmSync(pathOf(context, file.id), { force: true });
    return {};
  },
};

/** Keeps an uploaded file's bytes. False for an id that awaits none, or other bytes than were announced. */
export function storeUpload(context: SlackContext, fileId: string, bytes: Buffer): boolean {
  const file = context.store.data.files.find((candidate) => candidate.id === fileId);
  if (!file || file.completed || bytes.length !== file.length) return false;
  writeFileSync(pathOf(context, file.id), bytes, { mode: 0o600 });
  file.uploaded = true;
  context.store.touch();
  return true;
}

/** Sends a completed file's bytes to whoever showed the app's token. Always as a download: it is outside text. */
export function sendFile(context: SlackContext, fileId: string, response: ServerResponse): void {
  const file = context.store.data.files.find(({ id, completed }) => completed && id === fileId);
  if (!file || !existsSync(pathOf(context, file.id))) {
    response.writeHead(404, { 'content-type': 'text/plain' });
    response.end('file_not_found');
    return;
  }
  response.writeHead(200, {
    'content-type': 'application/octet-stream',
    'content-length': file.length,
    'content-disposition': 'attachment',
    'x-content-type-options': 'nosniff',
  });
  createReadStream(pathOf(context, file.id)).pipe(response);
}

function completedFile(context: SlackContext, args: Args): StoredFile {
  const id = args.required('file', 'file_not_found');
  const file = context.store.data.files.find((candidate) => candidate.id === id && candidate.completed);
  if (!file) throw new SlackRefusal('file_not_found');
  return file;
}

function fileJson(context: SlackContext, file: StoredFile): Json {
  const url = `${context.baseUrl()}/files/${file.id}`;
  return {
    id: file.id,
    name: file.name,
    title: file.title ?? file.name,
    user: BOT_USER_ID,
    size: file.length,
    mode: 'hosted',
    is_external: false,
    url_private: url,
    url_private_download: url,
    permalink: url,
  };
}

function pathOf(context: SlackContext, fileId: string): string {
  return join(context.store.stateDir, 'files', fileId);
}
