// Makes tables of several rows sortable by a button in each column's title.
const sortable = () => {
  const number = cell => {
    const found = cell.textContent.replace(/,(?=\d{3})/g, '').match(/[-+]?\d+(\.\d+)?(e[-+]?\d+)?/i);
    return found ? Number(found[0]) : NaN;
  };
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (isNaN(x) && isNaN(y)) return a.textContent.trim().localeCompare(b.textContent.trim());
    return isNaN(x) ? 1 : isNaN(y) ? -1 : x - y;
  };
  for (const table of document.querySelectorAll('table.sortable')) {
    const body = table.tBodies[0];
    if (!body || body.rows.length < 2 || table.tHead.querySelector('button')) continue;
    [...table.tHead.rows[0].cells].forEach((title, place) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.append(...title.childNodes);
      title.append(button);
      button.addEventListener('click', () => {
        const down = title.getAttribute('aria-sort') === 'ascending';
        for (const other of table.tHead.rows[0].cells) other.removeAttribute('aria-sort');
        title.setAttribute('aria-sort', down ? 'descending' : 'ascending');
        const rows = [...body.rows].sort((a, b) => compare(a.cells[place], b.cells[place]));
        body.append(...(down ? rows.reverse() : rows));
      });
    });
  }
};
sortable();
