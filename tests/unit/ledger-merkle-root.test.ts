/**
 * Guarantee: a seal's Merkle root stands for exactly its entries in exactly their order. It is RFC 6962's tree hash, so an independent
 * program can recompute it; no other list of leaves has the same root.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { merkleRoot } from '../../src/jobs/ledger.ts';

const leaf = fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => Buffer.from(bytes));
const leaves = fc.array(leaf, { minLength: 1, maxLength: 40 });
const hex = (list: readonly Buffer[]): string => merkleRoot(list).toString('hex');

describe('the Merkle root of a seal', () => {
  // Leaves and roots of the reference implementation's own tests: github.com/google/certificate-transparency, merkle_tree_test.
  const reference = [
    '',
    '00',
    '10',
    '2021',
    '3031',
    '40414243',
    '5051525354555657',
    '606162636465666768696a6b6c6d6e6f',
  ];
  it.each([
    [1, '6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d'],
    [2, 'fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125'],
    [3, 'aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77'],
    [4, 'd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7'],
    [5, '4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4'],
    [6, '76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef'],
    [7, 'ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c'],
    [8, '5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328'],
  ])('of %i leaves is the one of RFC 6962', (count, root) => {
    const list = reference.slice(0, count).map((leafHex) => Buffer.from(leafHex, 'hex'));

    expect(hex(list)).toBe(root);
  });

  it('changes with any change of any leaf', () => {
    fc.assert(
      fc.property(leaves, fc.nat(), fc.integer({ min: 0, max: 255 }), (list, at, bit) => {
        const index = at % list.length;
        const changed = list.map((entry, i) => {
          if (i !== index) return entry;
          const copy = Buffer.from(entry);
          copy[bit >> 3] = (copy[bit >> 3] ?? 0) ^ (1 << (bit & 7));
          return copy;
        });

        expect(hex(changed)).not.toBe(hex(list));
      }),
    );
  });

  it('changes when two different leaves change places', () => {
    fc.assert(
      fc.property(leaves, fc.nat(), fc.nat(), (list, a, b) => {
        const [i, j] = [a % list.length, b % list.length];
        const swapped = list.map((entry, at) => (at === i ? list[j] : at === j ? list[i] : entry) ?? entry);
        fc.pre(!swapped.every((entry, at) => entry.equals(list[at] ?? Buffer.alloc(0))));

        expect(hex(swapped)).not.toBe(hex(list));
      }),
    );
  });

  it('changes when a leaf is left out, or the last one is there twice', () => {
    fc.assert(
      fc.property(leaves, (list) => {
        expect(hex(list.slice(0, -1))).not.toBe(hex(list));
        expect(hex([...list, ...list.slice(-1)])).not.toBe(hex(list));
      }),
    );
  });

  it('of inner nodes given as leaves is another one', () => {
    fc.assert(
      fc.property(leaf, leaf, leaf, leaf, (a, b, c, d) => {
        expect(hex([merkleRoot([a, b]), merkleRoot([c, d])])).not.toBe(hex([a, b, c, d]));
        expect(hex([a])).not.toBe(a.toString('hex'));
      }),
    );
  });
});
