// The pages of the side bar.

export const PAGES = [
  { to: '/', name: 'Overview', icon: 'overview', role: 'viewer' },
  { to: '/instances', name: 'Instances', icon: 'box', role: 'viewer' },
  { to: '/images', name: 'Images', icon: 'layers', role: 'viewer' },
  { to: '/volumes', name: 'Volumes', icon: 'disk', role: 'viewer' },
  { to: '/networks', name: 'Networks', icon: 'net', role: 'viewer' },
  { to: '/activity', name: 'Activity', icon: 'activity', role: 'viewer' },
  { to: '/people', name: 'Access', icon: 'people', role: 'viewer' },
  { to: '/settings', name: 'Host', icon: 'gear', role: 'viewer' },
] as const;
