// Looks every two seconds how the runs stand, and replaces what has changed since. What a reader has opened, sorted,
// scrolled to or focused stays as it is.
const raw = new WeakMap();  // a part of the page -> its HTML as it was sent
for (const part of document.querySelectorAll('header > *, main > *')) raw.set(part, part.outerHTML);
document.documentElement.style.overflowAnchor = 'none';

const within = (parts, selector) => parts.flatMap(part => [...part.querySelectorAll(selector)].concat(part.matches(selector) ? part : []));
const focusable = part => within([part], 'a, button, summary, [tabindex]');

// How a reader left the parts that will go.
const remember = parts => {
  const sorted = within(parts, 'th[aria-sort]').map(title => [title.closest('table').id, title.cellIndex, title.getAttribute('aria-sort') === 'descending' ? 2 : 1]);
  const opened = within(parts, 'details[id]').map(each => [each.id, each.open]);
  const moved = within(parts, '.wide').filter(each => each.scrollLeft).map(each => [each.getAttribute('aria-label'), each.scrollLeft]);
  const owner = document.activeElement.closest('[id]:has(a, button, summary)');
  const focus = owner && parts.some(part => part.contains(owner)) && [owner.id, focusable(owner).indexOf(document.activeElement)];
  return () => {
    for (const [id, open] of opened) { const found = document.getElementById(id); if (found) found.open = open; }
    for (const [id, column, clicks] of sorted) {
      const button = document.querySelector(`[id="${id}"] th:nth-child(${column + 1}) button`);
      for (let click = 0; button && click < clicks; click++) button.click();
    }
    for (const [label, left] of moved) for (const each of document.querySelectorAll('.wide')) if (each.getAttribute('aria-label') === label) each.scrollLeft = left;
    const found = focus && document.getElementById(focus[0]);
    if (found) focusable(found)[focus[1]]?.focus({ preventScroll: true });
  };
};

// Changes the page so that what is in sight stays where it is.
const steadily = change => {
  const before = [...document.querySelectorAll('header > *, main > *')].map(part => [part, part.getBoundingClientRect().top]);
  change();
  const [part, top] = before.filter(([part]) => part.isConnected).sort((a, b) => Math.abs(a[1]) - Math.abs(b[1]))[0] ?? [];
  if (part && scrollY > 0) scrollBy({ top: part.getBoundingClientRect().top - top, behavior: 'instant' });
};

const update = (place, fresh) => {
  const left = [...place.children];
  const parts = [...fresh.children].map(part => {
    const html = part.outerHTML, at = left.findIndex(old => raw.get(old) === html);
    if (at >= 0) return left.splice(at, 1)[0];
    raw.set(part, html);
    return part;
  });
  const restore = remember(left);
  for (const old of left) old.remove();
  parts.forEach((part, at) => { if (place.children[at] !== part) place.insertBefore(part, place.children[at] ?? null); });
  sortable();
  if (typeof drawn === 'function') drawn();
  restore();
};

const parse = async address => new DOMParser().parseFromString(await (await fetch(address, { cache: 'no-cache' })).text(), 'text/html');
const counts = document.getElementById('counts');
const look = async () => {
  try {
    const fresh = await parse('live'), now = fresh.getElementById('counts');
    if (counts.textContent !== now.textContent) counts.textContent = now.textContent;
    const running = document.getElementById('running'), next = fresh.getElementById('running');
    if (running.innerHTML !== next.innerHTML) steadily(() => running.replaceChildren(...next.childNodes));
    if (counts.dataset.page !== now.dataset.page) {
      const page = await parse('.');
      steadily(() => { for (const name of ['header', 'main']) update(document.querySelector(name), page.querySelector(name)); });
      counts.dataset.page = now.dataset.page;
    }
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    counts.textContent = 'The server has ended or does not answer; this is what it showed last.';
  }
  setTimeout(look, 2000);
};
setTimeout(look, 2000);
