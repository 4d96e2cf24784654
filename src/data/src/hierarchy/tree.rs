//! A tree of classes, read from lines of two ids.

use std::collections::HashMap;
use std::path::Path;

use super::Error;
use crate::files;

/// ColumnOrder of the two ids on a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnOrder {
    ParentChild,
    /// The order in the file of NABirds.
    ChildParent,
}

/// A rooted tree whose node ids are text; integers are text too (`7` and `07` differ).
#[derive(Clone, Debug)]
pub struct Hierarchy {
    ids: Vec<String>,
    by_id: HashMap<String, usize>,
    parents: Vec<Option<usize>>,
    is_leaf: Vec<bool>,
    depths: Vec<u32>,
    heights: Vec<u32>,
    root: usize,
}

impl Hierarchy {
    /// Reads and parses a file; every error names the file.
    pub fn load(path: &Path, order: ColumnOrder) -> Result<Self, Error> {
        let text = files::text(path).map_err(Error::File)?;
        Self::parse(&text, order).map_err(|error| Error::InFile {
            path: path.to_owned(),
            source: Box::new(error),
        })
    }

    /// Parses lines of two ids separated by white space; empty lines are skipped.
    pub fn parse(text: &str, order: ColumnOrder) -> Result<Self, Error> {
        let (mut ids, mut by_id, mut parents) = (Vec::new(), HashMap::new(), Vec::new());
        // The line that first names a node, and the one that gives it its parent.
        let (mut named_in, mut edges) = (Vec::new(), Vec::new());
        for (number, text) in text
            .lines()
            .enumerate()
            .filter(|(_, text)| !text.trim().is_empty())
        {
            let line = number + 1;
            let fields: Vec<&str> = text.split_whitespace().collect();
            let &[first, second] = fields.as_slice() else {
                return Err(Error::BadLine {
                    line,
                    found: fields.len(),
                });
            };
            let (parent, child) = match order {
                ColumnOrder::ParentChild => (first, second),
                ColumnOrder::ChildParent => (second, first),
            };
            let mut node = |id: &str| {
                *by_id.entry(id.to_owned()).or_insert_with(|| {
                    ids.push(id.to_owned());
                    parents.push(None);
                    named_in.push(line);
                    edges.push(0);
                    ids.len() - 1
                })
            };
            let (parent_node, child_node) = (node(parent), node(child));
            match parents[child_node] {
                None => {
                    parents[child_node] = Some(parent_node);
                    edges[child_node] = line;
                }
                Some(known) if known == parent_node => {
                    return Err(Error::RepeatedEdge {
                        line,
                        first: edges[child_node],
                    });
                }
                Some(_) => {
                    return Err(Error::SeveralParents {
                        line,
                        first: edges[child_node],
                    });
                }
            }
        }
        Self::build(ids, by_id, parents, &Lines { named_in, edges })
    }

    fn build(
        ids: Vec<String>,
        by_id: HashMap<String, usize>,
        parents: Vec<Option<usize>>,
        lines: &Lines,
    ) -> Result<Self, Error> {
        if ids.is_empty() {
            return Err(Error::Empty);
        }
        let roots: Vec<usize> = (0..ids.len())
            .filter(|&node| parents[node].is_none())
            .collect();
        if roots.len() > 1 {
            let shown: Vec<String> = roots
                .iter()
                .take(5)
                .map(|&root| lines.named_in[root].to_string())
                .collect();
            let more = if roots.len() > 5 { ", ..." } else { "" };
            return Err(Error::SeveralRoots {
                count: roots.len(),
                lines: shown.join(", ") + more,
            });
        }
        let mut children = vec![Vec::new(); ids.len()];
        for (child, parent) in parents.iter().enumerate() {
            if let Some(parent) = parent {
                children[*parent].push(child);
            }
        }
        // Breadth first from the root: parents come before their children.
        let mut reached = roots.clone();
        let mut depths = vec![0; ids.len()];
        let mut next = 0;
        while let Some(&node) = reached.get(next) {
            children[node]
                .iter()
                .for_each(|&child| depths[child] = depths[node] + 1);
            reached.extend_from_slice(&children[node]);
            next += 1;
        }
        if reached.len() < ids.len() {
            return Err(Error::Cycle {
                lines: cycle(&lines.edges, &parents, &reached),
            });
        }
        let mut heights = vec![0; ids.len()];
        for &node in reached.iter().rev() {
            if let Some(parent) = parents[node] {
                heights[parent] = heights[parent].max(heights[node] + 1);
            }
        }
        let is_leaf = children.iter().map(Vec::is_empty).collect();
        Ok(Self {
            ids,
            by_id,
            parents,
            is_leaf,
            depths,
            heights,
            root: roots[0],
        })
    }

    pub fn num_nodes(&self) -> usize {
        self.ids.len()
    }

    pub fn root(&self) -> &str {
        &self.ids[self.root]
    }

    /// Returns the number of edges on the longest path down from a node; 0 for a leaf.
    pub fn height(&self, id: &str) -> Result<u32, Error> {
        Ok(self.heights[self.node(id)?])
    }

    /// Returns the number of edges between the root and a node.
    pub fn depth(&self, id: &str) -> Result<u32, Error> {
        Ok(self.depths[self.node(id)?])
    }

    /// Returns the height of the root.
    pub fn max_height(&self) -> u32 {
        self.heights[self.root]
    }

    /// Returns the ids of the leaves in ascending order: as numbers if all of them are numbers,
    /// otherwise as text.
    pub fn leaves(&self) -> Vec<&str> {
        let mut leaves: Vec<&str> = (0..self.ids.len())
            .filter(|&n| self.is_leaf[n])
            .map(|n| &*self.ids[n])
            .collect();
        let numbers: Option<Vec<u64>> = leaves.iter().map(|id| id.parse().ok()).collect();
        match numbers {
            Some(_) => leaves.sort_by_key(|id| (id.parse::<u64>().ok(), *id)),
            None => leaves.sort_unstable(),
        }
        leaves
    }

    pub fn contains(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    fn node(&self, id: &str) -> Result<usize, Error> {
        self.by_id
            .get(id)
            .copied()
            .ok_or_else(|| Error::UnknownClass {
                name: id.to_owned(),
            })
    }

    /// Returns the deepest node above both (a node is above itself).
    pub fn lowest_common_ancestor(&self, first: &str, second: &str) -> Result<&str, Error> {
        let node = self.common(self.node(first)?, self.node(second)?);
        Ok(&self.ids[node])
    }

    fn common(&self, mut first: usize, mut second: usize) -> usize {
        while first != second {
            let deeper = if self.depths[first] >= self.depths[second] {
                &mut first
            } else {
                &mut second
            };
            *deeper =
                self.parents[*deeper].expect("two different nodes meet at the root at the latest");
        }
        first
    }

    /// Returns the row-major `n x n` similarities of the given classes: 1 - height(lowest common
    /// ancestor) / height(root), and 1 between a class and itself. Values lie in 0..=1.
    pub fn similarity(&self, classes: &[&str]) -> Result<Vec<f64>, Error> {
        let nodes: Vec<usize> = classes
            .iter()
            .map(|id| self.node(id))
            .collect::<Result<_, _>>()?;
        let mut seen = std::collections::HashSet::new();
        if let Some(repeated) = nodes.iter().position(|node| !seen.insert(node)) {
            return Err(Error::RepeatedClass {
                name: classes[repeated].to_owned(),
            });
        }
        let max_height = f64::from(self.max_height());
        let mut similarity = vec![1.0; nodes.len() * nodes.len()];
        for row in 0..nodes.len() {
            for column in 0..row {
                let common = self.common(nodes[row], nodes[column]);
                let value = 1.0 - f64::from(self.heights[common]) / max_height;
                similarity[row * nodes.len() + column] = value;
                similarity[column * nodes.len() + row] = value;
            }
        }
        Ok(similarity)
    }
}

/// Line numbers in a file, by node.
struct Lines {
    named_in: Vec<usize>,
    /// The line of the edge from its parent.
    edges: Vec<usize>,
}

/// Returns the lines of one cycle among the nodes that the root does not reach.
fn cycle(edges: &[usize], parents: &[Option<usize>], reached: &[usize]) -> String {
    let mut outside = vec![true; edges.len()];
    reached.iter().for_each(|&node| outside[node] = false);
    let mut node = outside
        .iter()
        .position(|&outside| outside)
        .expect("called when a node is not reached");
    // Every unreached node has an unreached parent, so after as many steps as there are nodes the
    // walk is inside a cycle.
    for _ in 0..edges.len() {
        node = parents[node].expect("only the root has none");
    }
    let mut members = vec![node];
    let mut next = parents[node].expect("only the root has none");
    while next != node && members.len() < 8 {
        members.push(next);
        next = parents[next].expect("only the root has none");
    }
    let shown: Vec<String> = members
        .iter()
        .map(|&member| edges[member].to_string())
        .collect();
    format!(
        "{}{}",
        shown.join(" -> "),
        if next == node { "" } else { " -> ..." }
    )
}
