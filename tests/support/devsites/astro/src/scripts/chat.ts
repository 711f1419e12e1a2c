import { text } from './text';

const show = (shown: string) => {
  document.querySelector('h1')!.textContent = shown;
};

show(text);
import.meta.hot?.accept('./text', (changed) => show(changed!.text));
