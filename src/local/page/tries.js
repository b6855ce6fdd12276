/**
 * The ready list of things to try, one per risk tier. This is the one place to change it; `text` is what a person would write after
 * the mention.
 */
export const TRIES = [
  {
    tier: 'low',
    text: 'triage the open issues in acme/shop',
    says: 'Low risk: its own labels come at once. A comment to a stranger asks first.',
  },
  {
    tier: 'medium',
    text: 'close stale issues in acme/shop',
    says: 'Medium risk: a reviewer countersigns first.',
  },
  {
    tier: 'high',
    text: 'merge pull request 1 in acme/shop',
    says: 'High risk: main changes only after a reviewer says so.',
  },
];
