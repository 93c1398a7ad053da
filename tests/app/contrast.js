// Contrast (WCAG 2) of every visible piece of text against what lies behind it: [text, ratio] of each.
() => {
  const parse = color => {
    const found = color.match(/[\d.]+/g);
    return found ? found.map(Number) : [0, 0, 0, 0];
  };
  const over = (top, under) => {
    const alpha = top.length > 3 ? top[3] : 1;
    return [0, 1, 2].map(i => top[i] * alpha + under[i] * (1 - alpha));
  };
  const luminance = rgb => {
    const [r, g, b] = rgb.map(v => v / 255).map(v => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      if (at.classList.contains("js-plotly-plot")) {
        layers.push(parse(getComputedStyle(at.querySelector(".main-svg")).backgroundColor));
      }
      const color = parse(getComputedStyle(at).backgroundColor);
      layers.push(color);
    }
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const main = document.querySelector('[data-testid="stApp"]');
  const walker = document.createTreeWalker(main, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const element = walker.currentNode.parentElement;
    const box = element.getBoundingClientRect();
    const style = getComputedStyle(element);
    if (!text || !box.width || !box.height || style.visibility === "hidden" || ["STYLE", "SCRIPT"].includes(element.tagName)) {
      continue;
    }
    const fill = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
    const under = behind(element);
    const top = over(parse(fill), under);
    const [dark, light] = [luminance(top), luminance(under)].sort((a, b) => a - b);
    found.push([text, (light + 0.05) / (dark + 0.05)]);
  }
  return found;
}
