// What pages are made of: elements, questions that are asked before something is done, links that can be copied. Texts
// go into the page as text, never as HTML: names and answers are written by anybody.

/** The element with this id. */
export const at = (id) => document.getElementById(id);

/** An element: `el("a", {href: "/", onclick: f}, "text", node, ...)`. False, null and undefined are left out. */
export function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === 'function') node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined)
      node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat().filter((child) => child !== false && child !== null && child !== undefined));
  return node;
}

/** A button. */
export const button = (label, onclick, attributes) =>
  el('button', { type: 'button', onclick, ...attributes }, ...[label].flat());

/** Writes a text only where it is another: screens and readers are left in peace. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** "1 timer", "12 timers". */
export const count = (n, noun) => `${n.toLocaleString('en')} ${noun}${n === 1 ? '' : 's'}`;

export const capital = (word) => word.slice(0, 1).toUpperCase() + word.slice(1);

// Made once: a list of timers has a thousand of them.
const format = (options) => new Intl.DateTimeFormat('en-GB', options);
const FORMATS = {
  short: format({ timeStyle: 'short' }),
  shortDated: format({ timeStyle: 'short', dateStyle: 'medium' }),
  medium: format({ timeStyle: 'medium' }),
  mediumDated: format({ timeStyle: 'medium', dateStyle: 'medium' }),
};

/** The time of day of an instant in ms, or of RFC 3339, in this device's zone. */
export function timeOfDay(instant, style = 'short') {
  const time = new Date(instant);
  const isToday = time.toDateString() === new Date().toDateString();
  return FORMATS[isToday ? style : `${style}Dated`].format(time);
}

/** A dialog with this title; Escape closes it. Resolves with the value of the button that did. */
export function dialog(title, content, buttons) {
  const choices = buttons.map(([label, value, kind, autofocus]) =>
    el('button', { value, class: kind, autofocus }, label),
  );
  const box = el(
    'dialog',
    { class: 'asks', 'aria-labelledby': 'dialog-title' },
    el('h2', { id: 'dialog-title' }, title),
    content,
    el('form', { method: 'dialog', class: 'row end' }, choices),
  );
  document.body.append(box);
  box.showModal();
  return new Promise((done) =>
    box.addEventListener('close', () => {
      box.remove();
      done(box.returnValue);
    }),
  );
}

/** Asks before something is done. What cannot be undone is not what Enter does. */
export async function sure(question, content, verb, isFinal = false) {
  const yes = [verb, 'yes', isFinal ? 'danger' : 'primary', !isFinal];
  return (await dialog(question, content, [['Cancel', '', '', isFinal], yes])) === 'yes';
}

/** What a bulk call came to: how many it worked for, and which others not, and why. */
export async function report(results, done, nameOf) {
  const failed = results.filter((result) => !result.success);
  const worked = results.length - failed.length;
  if (failed.length === 0) return;
  await dialog(
    `${worked} ${done}, ${failed.length} not`,
    el(
      'ul',
      { class: 'report' },
      failed.map((result) => el('li', null, el('b', null, nameOf(result)), ` ${result.status}`)),
    ),
    [['Close', '', 'primary', true]],
  );
}

/** A link beside a button that copies it. */
export function copyable(label, url) {
  return el(
    'span',
    { class: 'row' },
    el('a', { href: url, target: '_blank' }, label),
    copier(label, () => url),
  );
}

/** A button that copies what `url()` says by then. */
export function copier(label, url) {
  const press = button(
    'Copy link',
    async () => {
      write(press, (await copy(url())) ? 'Copied' : 'Not copied');
      setTimeout(() => write(press, 'Copy link'), 2000);
    },
    { 'aria-label': `Copy link: ${label}` },
  );
  return press;
}

/** The clipboard is closed to pages that came by plain HTTP, as in most schools: then the old way. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = el('textarea', { class: 'unseen', readonly: true });
    // Inside an open dialog nothing outside of it can be selected.
    (document.querySelector('dialog[open]') ?? document.body).append(field);
    field.value = text;
    const focused = document.activeElement;
    field.select();
    const done = document.execCommand('copy');
    field.remove();
    focused?.focus();
    return done;
  }
}
