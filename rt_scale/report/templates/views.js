// Draws each view when it is opened, as browsers keep few 3-D scenes at once.
const seen = new WeakSet();
const drawn = () => {
  for (const view of document.querySelectorAll('details.view')) {
    if (seen.has(view)) continue;
    seen.add(view);
    const draw = () => {
      const { data, layout } = JSON.parse(view.querySelector('script').textContent);
      Plotly.newPlot(view.querySelector('div'), data, layout, { responsive: true, displaylogo: false });
    };
    view.open ? draw() : view.addEventListener('toggle', draw, { once: true });
  }
};
drawn();
