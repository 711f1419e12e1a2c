/**
 * Markdown within a block: emphasis, code, links. Text to tokens, as CommonMark has it except where noted. Pure.
 *
 * Deliberate differences: HTML is text, except `<br>`, which models write into tables. An image is a link: to load it
 * would tell another host who reads this. A link needs an absolute URL of a safe scheme, else its source is shown.
 * A single `~`, and a `*` between two digits, are text: they stand in ranges and products of numbers, as of a dose.
 * There are no reference links: a definition at the end would change blocks that stand already.
 *
 * The time is linear in the length of any text: no delimiter is searched for twice over the same characters.
 *
 * @typedef {{type: string, text?: string, href?: string, bare?: boolean, children?: Inline[]}} Inline
 *   `text` and `code` have a `text`; `emphasis`, `strong`, `deleted` and `link` have `children`
 * @typedef {{at: number, mark: string, count: number, length: number, opens: boolean, closes: boolean,
 *   starts: string[], ends: string[]}} Run
 *   A row of equal delimiters, the row number `at`; `count` of them are not used yet. `ends` and `starts`: the types of
 *   the elements that end and begin here
 */

const SCHEMES = new Set(['http:', 'https:', 'mailto:', 'tel:']);
/** What is nested deeper is shown by its source: browsers lay out elements recursively. */
const MAX_DEPTH = 16;
/** In a link's target. CommonMark allows the bound; without it many `[a](` take quadratic time. */
const MAX_PARENTHESES = 32;

const SPECIAL = /[\\`*_~[\]!<&]|https?:\/\//g;
const ESCAPED = /\\([!-/:-@[-`{-~\n])/y;
const BACKTICKS = /`+/g;
const RUN = /\*+|_+|~+/y;
const BREAK = /<br ?\/?>/iy;
const AUTOLINK = /<([a-z][a-z0-9+.-]{1,31}:[^\s<>]*|[\w.!#$%&'*+/=?^`{|}~-]+@[a-z0-9-]+(?:\.[a-z0-9-]+)+)>/iy;
const ENTITY = /&(?:#(\d{1,7})|#[xX]([\da-fA-F]{1,6})|(amp|lt|gt|quot|apos|nbsp));/y;
const NAMED = new Map(Object.entries({ amp: '&', lt: '<', gt: '>', quot: '"', apos: "'", nbsp: '\u00a0' }));
const BARE = /https?:\/\/[^\s<>[\]`"]+/y;
const ANGLED = /<([^<>\n]*)>/y;
const TITLE = /\s+(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\((?:[^()\\]|\\.)*\))/sy;
const SPACE = /\s*/y;
const SEPARATES = /^[\p{P}\p{S}]$/u;
/** Embeddings and overrides change the order of what stands around them, so that it reads as something else. */
const REORDERS = /[\u202a-\u202e]/g;

/** @param {string} text @returns {Inline[]} */
export function inlines(text) {
  SPECIAL.lastIndex = 0;
  if (!SPECIAL.test(text)) return text ? [{ type: 'text', text: shown(text) }] : [];
  const scan = new Scan(text);
  scan.run();
  return nest(scan.items);
}

/** The URL of a link, or null where it must not be one. @param {string} target @param {string} [base] for a target that
 * is a path @returns {string | null} */
export function safeLink(target, base) {
  try {
    // The parser removes what a browser removes, as the tab in "java\tscript:", before the scheme is compared.
    const url = new URL(target, base);
    return SCHEMES.has(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/** A text as it may be shown. @param {string} text */
export function shown(text) {
  return text.replace(REORDERS, '\ufffd');
}

/** From left to right: texts, links and rows of delimiters, which `nest` pairs up. */
class Scan {
  /** @type {(Inline | Run)[]} */ items = [];
  #text;
  #at = 0;
  /** Where in `items` a `[` or `![` waits for its `]`. @type {number[]} */ #brackets = [];
  /** The last place of a row of backticks of each length. @type {Map<number, number>} */ #lastTicks = new Map();

  /** @param {string} text */
  constructor(text) {
    this.#text = shown(text);
    for (const { 0: ticks, index } of text.matchAll(/`+/g)) this.#lastTicks.set(ticks.length, index);
  }

  run() {
    for (;;) {
      SPECIAL.lastIndex = this.#at;
      const found = SPECIAL.exec(this.#text);
      this.#push(this.#text.slice(this.#at, found?.index));
      if (!found) return;
      this.#at = found.index;
      this.#special(found[0]);
    }
  }

  /** @param {string} special what stands at `#at` */
  #special(special) {
    switch (special) {
      case '\\':
        return this.#take(ESCAPED, ([, character]) => this.#push(character));
      case '`':
        return this.#code();
      case '*':
      case '_':
      case '~':
        return this.#take(RUN, ([run]) => this.items.push(this.#delimiters(run)));
      case '[':
        return this.#bracket('[');
      case '!':
        return this.#text[this.#at + 1] === '[' ? this.#bracket('![') : this.#literal('!');
      case ']':
        return this.#link();
      case '<':
        return this.#angle();
      case '&':
        return this.#take(ENTITY, ([source, ...codes]) => this.#push(decoded(source, codes)));
      default:
        return this.#bareLink();
    }
  }

  /** Go on behind what matches here, or take the character as it is.
   * @param {RegExp} pattern @param {(match: RegExpExecArray) => void} found */
  #take(pattern, found) {
    const match = this.#match(pattern);
    if (!match) return this.#literal(this.#text[this.#at]);
    this.#at += match[0].length;
    found(match);
  }

  /** @param {RegExp} pattern a sticky one @param {number} [at] */
  #match(pattern, at = this.#at) {
    pattern.lastIndex = at;
    return pattern.exec(this.#text);
  }

  /** @param {string} text */
  #literal(text) {
    this.#push(text);
    this.#at += text.length;
  }

  /** @param {string} text */
  #push(text) {
    const last = this.items.at(-1);
    const bracket = this.#brackets.at(-1) === this.items.length - 1;
    if (last && 'text' in last && last.type === 'text' && !bracket) last.text += text;
    else if (text) this.items.push({ type: 'text', text });
  }

  #code() {
    BACKTICKS.lastIndex = this.#at;
    const { length } = /** @type {RegExpExecArray} */ (BACKTICKS.exec(this.#text))[0];
    const start = this.#at + length;
    // Without this, rows that have no partner are each searched to the end of the text.
    const last = this.#lastTicks.get(length) ?? -1;
    let end = null;
    if (last >= start) while ((end = BACKTICKS.exec(this.#text)) && end[0].length !== length);
    if (!end) return this.#literal('`'.repeat(length));
    const code = this.#text.slice(start, end.index).replaceAll('\n', ' ');
    // One space on each side lets code begin or end with a backtick.
    const text = /^ .*[^ ].* $/.test(code) ? code.slice(1, -1) : code;
    this.items.push({ type: 'code', text });
    this.#at = end.index + length;
  }

  /** @param {string} mark */
  #delimiters(mark) {
    const before = SEPARATES.test(characterBefore(this.#text, this.#at - mark.length));
    const after = SEPARATES.test(characterAt(this.#text, this.#at));
    const spaceBefore = /^\s?$/.test(this.#text.charAt(this.#at - mark.length - 1));
    const spaceAfter = /^\s?$/.test(this.#text.charAt(this.#at));
    const left = !spaceAfter && (!after || spaceBefore || before);
    const right = !spaceBefore && (!before || spaceAfter || after);
    // An underscore within a word, as in snake_case, is no emphasis.
    const word = mark[0] === '_';
    // "2*5 mg or 4*5 mg" are no "25 mg or 45 mg", and "5~10 mg, later 10~20 mg" strikes out nothing.
    const product = mark === '*' && /^\d\*\d$/.test(this.#text.slice(this.#at - 2, this.#at + 1));
    const text = product || mark === '~';
    return {
      at: 0,
      mark: mark[0],
      count: mark.length,
      length: mark.length,
      opens: left && !text && (!word || !right || before),
      closes: right && !text && (!word || !left || after),
      starts: [],
      ends: [],
    };
  }

  // Links -------------------------------------------------------------------------------------------------------------

  /** @param {string} mark */
  #bracket(mark) {
    this.#brackets.push(this.items.length);
    this.items.push({ type: 'text', text: mark });
    this.#at += mark.length;
  }

  #link() {
    const opening = this.#brackets.pop();
    const found = opening === undefined ? null : this.#target(this.#at + 1);
    const href = found && safeLink(found.target);
    if (opening === undefined || !found || !href) return this.#literal(']');
    const children = nest(this.items.splice(opening + 1)).map(unlinked);
    this.items[opening] = { type: 'link', href, children: children.length ? children : [{ type: 'text', text: href }] };
    this.#at = found.end;
    // A link holds no link: the brackets around this one are text.
    this.#brackets = [];
  }

  /** The target in parentheses at `at`, if there is one. @param {number} at */
  #target(at) {
    if (this.#text[at] !== '(') return null;
    let place = at + 1 + length(this.#match(SPACE, at + 1));
    const angled = this.#match(ANGLED, place);
    const end = angled ? place + angled[0].length : endOfTarget(this.#text, place);
    const target = angled ? angled[1] : this.#text.slice(place, end).replace(/\\([!-/:-@[-`{-~])/g, '$1');
    place = end + length(this.#match(TITLE, end));
    place += length(this.#match(SPACE, place));
    return this.#text[place] === ')' ? { target, end: place + 1 } : null;
  }

  #angle() {
    const lineBreak = this.#match(BREAK);
    if (lineBreak) {
      this.#at += lineBreak[0].length;
      return this.#push('\n');
    }
    const [source, target] = this.#match(AUTOLINK) ?? ['<', ''];
    const href = safeLink(target.includes(':') ? target : `mailto:${target}`);
    if (!target || !href) return this.#literal('<');
    this.items.push({ type: 'link', href, children: [{ type: 'text', text: target }] });
    this.#at += source.length;
  }

  #bareLink() {
    const [found] = this.#match(BARE) ?? [''];
    const url = trimmed(found);
    const href = safeLink(url);
    const within = /[\p{L}\p{N}]/u.test(characterBefore(this.#text, this.#at));
    if (!href || within) return this.#literal('http');
    this.items.push({ type: 'link', href, bare: true, children: [{ type: 'text', text: url }] });
    this.#at += url.length;
  }
}

/** @param {RegExpExecArray | null} match */
function length(match) {
  return match ? match[0].length : 0;
}

/** @param {string} source @param {(string | undefined)[]} codes */
function decoded(source, [decimal, hex, name]) {
  if (name) return NAMED.get(name) ?? source;
  const point = decimal ? Number(decimal) : Number.parseInt(hex ?? '', 16);
  return shown(point && point <= 0x10ffff ? String.fromCodePoint(point) : '\ufffd');
}

/** @param {string} text @param {number} at */
function characterAt(text, at) {
  return at < text.length ? String.fromCodePoint(/** @type {number} */ (text.codePointAt(at))) : '';
}

/** @param {string} text @param {number} at */
function characterBefore(text, at) {
  const pair = /[\udc00-\udfff]/.test(text.charAt(at - 1)) ? 2 : 1;
  return at > 0 ? text.slice(Math.max(0, at - pair), at) : '';
}

/** Where a target without angle brackets ends. @param {string} text @param {number} at */
function endOfTarget(text, at) {
  let open = 0;
  for (; at < text.length && text[at] > ' '; at += 1) {
    if (text[at] === '\\') at += 1;
    else if (text[at] === '(' && ++open > MAX_PARENTHESES) break;
    else if (text[at] === ')' && --open < 0) break;
  }
  return Math.min(at, text.length);
}

/** A URL in running text without the punctuation that belongs to the sentence. @param {string} url */
function trimmed(url) {
  let end = url.length;
  let surplus = url.split(')').length - url.split('(').length;
  for (; end > 0; end -= 1) {
    const last = url[end - 1];
    if (last === ')' ? surplus-- <= 0 : !"?!.,:;*_~'".includes(last)) break;
  }
  return url.slice(0, end);
}

/** A URL within the text of a link is text. @param {Inline} token @returns {Inline} */
function unlinked(token) {
  return token.bare ? /** @type {Inline[]} */ (token.children)[0] : token;
}

// Emphasis ------------------------------------------------------------------------------------------------------------

/** Pair the delimiters and put the items into each other accordingly.
 * @param {(Inline | Run)[]} items @returns {Inline[]} */
function nest(items) {
  pair(items.filter((item) => 'mark' in item));
  const tree = new Tree();
  for (const item of items) {
    if (!('mark' in item)) tree.add(item);
    else {
      for (const type of item.ends) tree.end(type, item.mark);
      tree.add({ type: 'text', text: item.mark.repeat(item.count) });
      for (const type of item.starts.reverse()) tree.start(type, item.mark);
    }
  }
  return tree.root;
}

/** CommonMark's "process emphasis". @param {Run[]} runs */
function pair(runs) {
  /** @type {Run[]} */ let open = [];
  // For each kind of closing run: before this one there is no partner.
  /** @type {Map<string, number>} */ const floors = new Map();
  runs.forEach((run, place) => {
    run.at = place;
    const kind = `${run.mark}${run.opens}${run.length % 3}`;
    while (run.closes && run.count) {
      const at = partner(open, run, floors.get(kind) ?? 0);
      if (at < 0) {
        floors.set(kind, place);
        break;
      }
      join(open[at], run);
      open = open.slice(0, at + (open[at].count ? 1 : 0));
    }
    if (run.opens && run.count) open.push(run);
  });
}

/** @param {Run[]} open @param {Run} run @param {number} floor */
function partner(open, run, floor) {
  for (let at = open.length - 1; at >= 0 && open[at].at >= floor; at -= 1) {
    const other = open[at];
    if (other.mark !== run.mark) continue;
    if (run.mark === '~' ? other.length === run.length && run.length <= 2 : matches(other, run)) return at;
  }
  return -1;
}

/** CommonMark's rule of three: `a**b*c**` is no emphasis of `b`. @param {Run} opening @param {Run} closing */
function matches(opening, closing) {
  const both = opening.closes || closing.opens;
  return !both || (opening.length + closing.length) % 3 !== 0 || (opening.length % 3 === 0 && closing.length % 3 === 0);
}

/** @param {Run} opening @param {Run} closing */
function join(opening, closing) {
  const used = Math.min(opening.count, closing.count, 2);
  const type = opening.mark === '~' ? 'deleted' : used === 2 ? 'strong' : 'emphasis';
  opening.starts.push(type);
  closing.ends.push(type);
  opening.count -= used;
  closing.count -= used;
}

/** Tokens that are put into each other, down to MAX_DEPTH. */
class Tree {
  /** @type {Inline[]} */ root = [];
  #open = [this.root];
  #tooDeep = 0;

  /** @param {Inline} token */
  add(token) {
    const list = /** @type {Inline[]} */ (this.#open.at(-1));
    const last = list.at(-1);
    if (token.type === 'text' && last?.type === 'text') last.text = `${last.text}${token.text}`;
    else if (token.text !== '') list.push(token.type === 'text' ? { ...token } : token);
  }

  /** @param {string} type @param {string} mark */
  start(type, mark) {
    if (this.#open.length > MAX_DEPTH) {
      this.#tooDeep += 1;
      return this.add(source(type, mark));
    }
    const children = /** @type {Inline[]} */ ([]);
    this.add({ type, children });
    this.#open.push(children);
  }

  /** @param {string} type @param {string} mark */
  end(type, mark) {
    if (!this.#tooDeep) return void this.#open.pop();
    this.#tooDeep -= 1;
    this.add(source(type, mark));
  }
}

/** @param {string} type @param {string} mark @returns {Inline} */
function source(type, mark) {
  return { type: 'text', text: type === 'emphasis' ? mark : mark.repeat(2) };
}
