/**
 * Signs drawn by the page itself, so that they look the same on every machine, also where no emoji font is installed.
 * Each is a path set on a 24-unit square; colours follow the text except where a sign is known by its colour.
 */
const SVG = 'http://www.w3.org/2000/svg';

const SHAPES = {
  seal: [
    [
      'path',
      {
        d: 'M12 1.8l2.3 1.9 3-.4 1.1 2.8 2.8 1.1-.4 3 1.9 2.3-1.9 2.3.4 3-2.8 1.1-1.1 2.8-3-.4-2.3 1.9-2.3-1.9-3 .4-1.1-2.8-2.8-1.1.4-3L1.3 12.5l1.9-2.3-.4-3 2.8-1.1 1.1-2.8 3 .4z',
        fill: 'currentColor',
        opacity: '.22',
      },
    ],
    [
      'path',
      {
        d: 'M7.2 12.6l3.2 3.3 6.4-7',
        fill: 'none',
        stroke: 'currentColor',
        'stroke-width': '2.4',
        'stroke-linecap': 'round',
        'stroke-linejoin': 'round',
      },
    ],
  ],
  eyes: [
    [
      'ellipse',
      { cx: '7', cy: '12', rx: '4.6', ry: '6.6', fill: '#fff', stroke: '#5b6460', 'stroke-width': '1.1' },
    ],
    [
      'ellipse',
      { cx: '17', cy: '12', rx: '4.6', ry: '6.6', fill: '#fff', stroke: '#5b6460', 'stroke-width': '1.1' },
    ],
    ['ellipse', { cx: '5.6', cy: '12.6', rx: '2.1', ry: '3.1', fill: '#2b2320' }],
    ['ellipse', { cx: '15.6', cy: '12.6', rx: '2.1', ry: '3.1', fill: '#2b2320' }],
  ],
  hourglass: [
    [
      'path',
      {
        d: 'M6 2.5h12v2.2c0 3.4-2.6 5.4-4.4 7.3 1.8 1.900 4.4 3.900 4.4 7.300v2.200H6v-2.200c0-3.400 2.600-5.400 4.400-7.300C8.600 10.100 6 8.100 6 4.700z',
        fill: '#e9f1f5',
        stroke: '#7a5a2e',
        'stroke-width': '1.5',
        'stroke-linejoin': 'round',
      },
    ],
    [
      'path',
      {
        d: 'M8.600 7.600h6.800c-.9 1.300-2.200 2.400-3.400 3.600-1.200-1.200-2.500-2.300-3.400-3.600zM12 14.500c2.200 1.300 3.600 2.700 4.100 5H7.900c.5-2.300 1.900-3.700 4.100-5z',
        fill: '#e0a83a',
      },
    ],
  ],
  thumbs: [
    [
      'path',
      {
        d: 'M3 10.500h3.600v10H3zM8 10.800l4-8.300c1.800 0 2.700 1.300 2.400 3.100l-.6 3.400h5c1.500 0 2.500 1.300 2.200 2.700l-1.500 6.900c-.3 1.200-1.200 1.900-2.400 1.900H8z',
        fill: '#f2b63c',
        stroke: '#a8741a',
        'stroke-width': '1',
      },
    ],
  ],
  check: [
    ['rect', { x: '2', y: '2', width: '20', height: '20', rx: '4', fill: '#2e9e63' }],
    [
      'path',
      {
        d: 'M6.500 12.500l3.700 3.800 7.300-8.300',
        fill: 'none',
        stroke: '#fff',
        'stroke-width': '2.600',
        'stroke-linecap': 'round',
        'stroke-linejoin': 'round',
      },
    ],
  ],
  cross: [
    [
      'path',
      {
        d: 'M5 5l14 14M19 5L5 19',
        fill: 'none',
        stroke: '#d13a3a',
        'stroke-width': '4',
        'stroke-linecap': 'round',
      },
    ],
  ],
  sun: [
    ['path', { d: 'M12 3a9 9 0 1 0 0 18z', fill: 'currentColor' }],
    ['circle', { cx: '12', cy: '12', r: '9', fill: 'none', stroke: 'currentColor', 'stroke-width': '1.800' }],
  ],
  reply: [
    [
      'path',
      {
        d: 'M4 5.500h16v10.500H11l-4.500 3.800V16H4z',
        fill: 'none',
        stroke: 'currentColor',
        'stroke-width': '1.900',
        'stroke-linejoin': 'round',
      },
    ],
  ],
  merge: [
    [
      'path',
      {
        d: 'M6.500 8v8M8.500 6.500c2 5 4.500 6 7 6',
        fill: 'none',
        stroke: 'currentColor',
        'stroke-width': '2',
      },
    ],
    [
      'circle',
      { cx: '6.500', cy: '5.500', r: '2.500', fill: 'none', stroke: 'currentColor', 'stroke-width': '2' },
    ],
    [
      'circle',
      { cx: '6.500', cy: '18.500', r: '2.500', fill: 'none', stroke: 'currentColor', 'stroke-width': '2' },
    ],
    [
      'circle',
      { cx: '18', cy: '12.500', r: '2.500', fill: 'none', stroke: 'currentColor', 'stroke-width': '2' },
    ],
  ],
  file: [
    [
      'path',
      {
        d: 'M6 2.500h8.500L19 7v14.500H6zM14 3v4.500h4.500',
        fill: 'none',
        stroke: 'currentColor',
        'stroke-width': '1.800',
        'stroke-linejoin': 'round',
      },
    ],
  ],
};

/** Emoji whose sign is drawn here, by short name and by character. */
const DRAWN = {
  eyes: 'eyes',
  '👀': 'eyes',
  hourglass: 'hourglass',
  hourglass_flowing_sand: 'hourglass',
  '⏳': 'hourglass',
  '⌛': 'hourglass',
  '+1': 'thumbs',
  thumbsup: 'thumbs',
  '👍': 'thumbs',
  white_check_mark: 'check',
  '✅': 'check',
  x: 'cross',
  '❌': 'cross',
};
/** For splitting text around drawn characters, keeping them. */
export const DRAWN_CHARACTERS = /(👀|⏳|⌛|👍|✅|❌)/u;

/** A sign as an SVG element; with `label` it speaks to screen readers, without it is decoration. */
export function glyph(name, label) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('class', 'glyph');
  if (label) {
    svg.setAttribute('role', 'img');
    svg.setAttribute('aria-label', label);
  } else svg.setAttribute('aria-hidden', 'true');
  for (const [tag, attributes] of SHAPES[name] ?? []) {
    const shape = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
    svg.append(shape);
  }
  return svg;
}

/** The drawn sign of an emoji name or character, or null when the machine's own font has to do. */
export function drawnEmoji(what) {
  return Object.hasOwn(DRAWN, what) ? glyph(DRAWN[what], what.replaceAll('_', ' ')) : null;
}
