/**
 * Markdown in blocks: headings, lists, tables, code, quotes. Text to tokens, line by line. Pure.
 *
 * CommonMark with GFM's tables, task lists and struck-out text, with differences, so that an answer does not change its
 * form while it is written, and as models write rather than as the specification wishes:
 * - line breaks and leading spaces are shown, so there is no indented code,
 * - `---` below a text is a rule; as the underline of a heading, the first `-` of a list would be one for a moment,
 * - what is indented by two spaces more than an item belongs to it if it is an item; no line belongs to a list without
 *   being indented,
 * - no HTML, no images, no reference links (markdown-inline.js says why).
 *
 * @typedef {{type: string, level?: number, start?: number, loose?: boolean, checked?: boolean, align?: string,
 *   language?: string, text?: string, href?: string, children?: Token[]}} Token
 *   `paragraph`, `heading` (level), `fence` (language, text), `quote`, `list` (start: of a numbered one; loose: with
 *   blank lines), `item` (checked: of a task), `table` of `row`s of `header`s or `cell`s (align), `rule`, and the
 *   tokens of markdown-inline.js
 * @typedef {{text: string, blocks: readonly Token[], starts: readonly number[], known: Map<string, any>}} Document
 *   `starts`: where each block begins; `known`: items and rows of the blocks that were read last, by their source
 * @typedef {[block: Token, end: number]} Read a block, and the line behind it
 */
import { inlines, shown } from './markdown-inline.js';

/** Lists and quotes in each other: browsers lay them out recursively. What is nested deeper is text. */
const MAX_DEPTH = 16;
const TAB = 4;

// All are for lines without their indentation, and take linear time.
const FENCE = /^(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^(#{1,6})(?=\s|$)/;
const RULE = /^([-*_])(?:[ \t]*\1){2,}\s*$/;
const QUOTE = /^> ?/;
const ITEM = /^([-+*]|(\d{1,9})[.)])(?:([ \t]+)(?=\S)|\s*$)/;
const TASK = /^\[([ xX])\] +(?=\S)/;
const DELIMITERS = /^\|?(?:[ \t]*:?-+:?[ \t]*\|)*(?:[ \t]*:?-+:?)?$/;

/** @type {Document} */
export const EMPTY = Object.freeze({ text: '', blocks: [], starts: [], known: new Map() });

/** The document of `text`. What of `before` cannot change any more is taken from it as the same objects and not read
 * again, so that a text that grows costs as much as its last blocks, and a long list as much as its last item.
 * @param {string} text @param {Document} [before] @returns {Document} */
export function parse(text, before = EMPTY) {
  const kept = text.startsWith(before.text) ? settled(before) : 0;
  const start = kept ? before.starts[kept] : 0;
  const lines = text.slice(start).split('\n');
  const memory = new Memory(before.known);
  const { blocks, firsts } = read(lines, 0, memory);
  const offsets = offsetsOf(lines, start);
  return {
    text,
    blocks: [...before.blocks.slice(0, kept), ...blocks],
    starts: [...before.starts.slice(0, kept), ...firsts.map((line) => offsets[line])],
    known: memory.used,
  };
}

/** What was read before, by its source, as the same objects. Holds what the last text needed and no more. */
class Memory {
  /** @type {Map<string, any>} */ used = new Map();
  #known;

  /** @param {Map<string, any>} known */
  constructor(known) {
    this.#known = known;
  }

  /** @template T @param {string} key the kind and all that the value depends on @param {() => T} make @returns {T} */
  get(key, make) {
    const value = this.used.get(key) ?? this.#known.get(key) ?? make();
    this.used.set(key, value);
    return value;
  }
}

/** How many blocks will be the same whatever follows: all before the last one, or before the last two if what began the
 * last one may still change. That depends on two lines, as of a table, which must have ended.
 * @param {Document} document */
function settled({ text, blocks, starts }) {
  const first = text.indexOf('\n', starts.at(-1));
  const complete = first >= 0 && text.indexOf('\n', first + 1) >= 0;
  return Math.max(0, blocks.length - (complete ? 1 : 2));
}

/** Where each line begins. @param {string[]} lines @param {number} start */
function offsetsOf(lines, start) {
  const offsets = [start];
  for (const line of lines) offsets.push(/** @type {number} */ (offsets.at(-1)) + line.length + 1);
  return offsets;
}

/** @param {string[]} lines @param {number} depth @param {Memory} memory */
function read(lines, depth, memory) {
  /** @type {Token[]} */ const blocks = [];
  /** @type {number[]} */ const firsts = [];
  for (let at = 0; at < lines.length; ) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const [block, end] = readBlock(lines, at, depth, memory);
    blocks.push(block);
    firsts.push(at);
    at = end;
  }
  return { blocks, firsts };
}

/** @param {string[]} lines @param {number} at @param {number} depth @param {Memory} memory @returns {Read} */
function readBlock(lines, at, depth, memory) {
  const line = lines[at].trimStart();
  if (FENCE.test(line)) return readFence(lines, at);
  if (HEADING.test(line)) return [heading(line), at + 1];
  if (RULE.test(line)) return [{ type: 'rule' }, at + 1];
  if (depth < MAX_DEPTH && QUOTE.test(line)) return readQuote(lines, at, depth, memory);
  if (depth < MAX_DEPTH && ITEM.test(line)) return readList(lines, at, depth, memory);
  if (beginsTable(lines, at)) return readTable(lines, at, memory);
  return readParagraph(lines, at, depth);
}

/** @param {string[]} lines @param {number} at @param {number} depth @returns {Read} */
function readParagraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !interrupts(lines, end, depth)) end += 1;
  const text = lines.slice(at, end).map((line) => line.trimEnd());
  return [{ type: 'paragraph', children: inlines(text.join('\n')) }, end];
}

/** Whether a paragraph ends before a line that is not blank. @param {string[]} lines @param {number} at
 * @param {number} depth */
function interrupts(lines, at, depth) {
  const line = lines[at].trimStart();
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line)) return true;
  if (depth < MAX_DEPTH && QUOTE.test(line)) return true;
  const item = depth < MAX_DEPTH ? ITEM.exec(line) : null;
  // "It was in\n1984. Then" is no list.
  return item ? item[3] !== undefined && (item[2] ?? '1') === '1' : beginsTable(lines, at);
}

/** @param {string} line @returns {Token} */
function heading(line) {
  const [, { length: level }] = /** @type {RegExpExecArray} */ (HEADING.exec(line));
  const text = line.slice(level).trim().replace(/ #+$/, '').trimEnd();
  return { type: 'heading', level, children: inlines(text) };
}

/** To its end, or while it is being written as far as it goes. @param {string[]} lines @param {number} at
 * @returns {Read} */
function readFence(lines, at) {
  const [, marks, info] = /** @type {RegExpExecArray} */ (FENCE.exec(lines[at].trimStart()));
  const columns = indentation(lines[at]);
  let end = at + 1;
  while (end < lines.length && !closes(lines[end].trim(), marks)) end += 1;
  const text = lines.slice(at + 1, end).map((line) => outdent(withoutReturn(line), columns));
  const language = shown(info.trim().split(/\s/, 1)[0]);
  return [{ type: 'fence', language, text: shown(text.join('\n')) }, end + 1];
}

/** @param {string} line @param {string} marks */
function closes(line, marks) {
  return line.startsWith(marks) && line === marks[0].repeat(line.length);
}

/** @param {string[]} lines @param {number} at @param {number} depth @param {Memory} memory @returns {Read} */
function readQuote(lines, at, depth, memory) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end].trimStart())) end += 1;
  const inner = lines.slice(at, end).map((line) => line.trimStart().replace(QUOTE, ''));
  return [{ type: 'quote', children: read(inner, depth + 1, memory).blocks }, end];
}

// Lists ---------------------------------------------------------------------------------------------------------------

/** @param {string[]} lines @param {number} at @param {number} depth @param {Memory} memory @returns {Read} */
function readList(lines, at, depth, memory) {
  const [, marker, number] = /** @type {RegExpExecArray} */ (ITEM.exec(lines[at].trimStart()));
  /** @type {Token[]} */ const children = [];
  let loose = false;
  let end = at;
  for (;;) {
    const last = readItem(lines, end, depth, memory);
    children.push(last.item);
    end = last.end;
    const blank = end < lines.length && !lines[end].trim();
    let next = end;
    while (next < lines.length && !lines[next].trim()) next += 1;
    const more = next < lines.length && continues(lines[next].trimStart(), marker);
    loose ||= last.loose || (blank && more);
    if (!more) break;
    end = next;
  }
  return [{ type: 'list', start: number === undefined ? undefined : Number(number), loose, children }, end];
}

/** Whether a line begins another item of the same list. @param {string} line @param {string} marker of the first */
function continues(line, marker) {
  return ITEM.exec(line)?.[1].at(-1) === marker.at(-1) && !RULE.test(line);
}

/** An item with all that belongs to it.
 * @param {string[]} lines @param {number} at @param {number} depth @param {Memory} memory */
function readItem(lines, at, depth, memory) {
  const indent = indentation(lines[at]);
  const line = lines[at].trimStart();
  const [, marker, , space = ' '] = /** @type {RegExpExecArray} */ (ITEM.exec(line));
  // Beyond four spaces, they belong to the text.
  const width = marker.length + (space.length > TAB ? 1 : space.length);
  const inner = [line.slice(width)];
  let columns = indent + width;
  let end = at + 1;
  for (; end < lines.length; end += 1) {
    const found = indentation(lines[end]);
    const blank = !lines[end].trim();
    if (!blank && found < columns) {
      if (found < indent + 2 || !ITEM.test(lines[end].trimStart())) break;
      columns = found;
    }
    inner.push(blank ? '' : outdent(lines[end], columns));
  }
  while (inner.at(-1) === '' && inner.length > 1) {
    inner.pop();
    end -= 1;
  }
  return { ...memory.get(`item ${depth} ${inner.join('\n')}`, () => item(inner, depth, memory)), end };
}

/** @param {string[]} lines @param {number} depth @param {Memory} memory */
function item(lines, depth, memory) {
  const task = TASK.exec(lines[0]);
  if (task) lines[0] = lines[0].slice(task[0].length);
  const { blocks: children, firsts } = read(lines, depth + 1, memory);
  const loose = firsts.slice(1).some((first) => !lines[first - 1].trim());
  return { item: { type: 'item', checked: task ? task[1] !== ' ' : undefined, children }, loose };
}

/** The columns before a line's text. @param {string} line */
function indentation(line) {
  let columns = 0;
  for (const character of line) {
    if (character === ' ') columns += 1;
    else if (character === '\t') columns += TAB - (columns % TAB);
    else break;
  }
  return columns;
}

/** A line without its first columns, as far as they are indentation. @param {string} line @param {number} columns */
function outdent(line, columns) {
  let taken = 0;
  let at = 0;
  for (; taken < columns && at < line.length; at += 1) {
    if (line[at] === ' ') taken += 1;
    else if (line[at] === '\t') taken += TAB - (taken % TAB);
    else break;
  }
  return ' '.repeat(Math.max(0, taken - columns)) + line.slice(at);
}

/** @param {string} line */
function withoutReturn(line) {
  return line.endsWith('\r') ? line.slice(0, -1) : line;
}

// Tables --------------------------------------------------------------------------------------------------------------

/** @param {string[]} lines @param {number} at */
function beginsTable(lines, at) {
  const delimiters = lines[at + 1]?.trim() ?? '';
  if (!lines[at].includes('|') || !delimiters.includes('-') || !DELIMITERS.test(delimiters)) return false;
  return cells(lines[at]).length === cells(delimiters).length;
}

/** @param {string[]} lines @param {number} at @param {Memory} memory @returns {Read} */
function readTable(lines, at, memory) {
  const aligns = cells(lines[at + 1]).map(alignOf);
  /** @type {(line: string, type: string) => Token} */
  const row = (line, type) => {
    // Cells that are missing stay so: to add them, one long row and many short ones would make millions of cells.
    const found = cells(line).slice(0, aligns.length);
    const children = found.map((text, column) => ({ type, align: aligns[column], children: inlines(text) }));
    return { type: 'row', children };
  };
  let end = at + 2;
  while (end < lines.length && lines[end].trim() && !interrupts(lines, end, 0)) end += 1;
  const kind = `row ${lines[at + 1]}`;
  const rows = lines.slice(at + 2, end).map((line) => memory.get(`${kind}\n${line}`, () => row(line, 'cell')));
  return [{ type: 'table', children: [row(lines[at], 'header'), ...rows] }, end];
}

/** @param {string} line */
function cells(line) {
  const inner = line.trim().replace(/^\|/, '').replace(/(?<!\\)\|$/, '');
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll('\\|', '|'));
}

/** @param {string} delimiter */
function alignOf(delimiter) {
  const [left, right] = [delimiter.startsWith(':'), delimiter.endsWith(':')];
  return left && right ? 'center' : right ? 'right' : undefined;
}
