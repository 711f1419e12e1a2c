/** Keeps the end of a growing column in view until the reader scrolls up, and again once they are back at the end. */

/** Closer than this to the end counts as being there, in pixels: zoom leaves fractions. */
const AT_END = 8;

export class Following {
  #scroller;
  #onChange;
  #following = true;
  #top = 0;

  /** @param {HTMLElement} scroller @param {HTMLElement} column what grows in it
   * @param {(following: boolean) => void} onChange */
  constructor(scroller, column, onChange) {
    this.#scroller = scroller;
    this.#onChange = onChange;
    scroller.addEventListener('scroll', () => this.#scrolled(), { passive: true });
    // Both: an answer grows, and a keyboard on the screen takes half of the height.
    const resized = new ResizeObserver(() => this.#stick());
    resized.observe(scroller);
    resized.observe(column);
  }

  /** Go to the end and stay there. */
  follow() {
    this.#set(true);
    this.#stick();
  }

  #stick() {
    if (!this.#following) return;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#top = this.#scroller.scrollTop;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    const atEnd = scrollHeight - scrollTop - clientHeight <= AT_END;
    // The column may have grown since our own scrolling, whose event comes now: only a move up is the reader's.
    if (atEnd) this.#set(true);
    else if (scrollTop < this.#top) this.#set(false);
    this.#top = scrollTop;
  }

  /** @param {boolean} following */
  #set(following) {
    if (following === this.#following) return;
    this.#following = following;
    this.#onChange(following);
  }
}
